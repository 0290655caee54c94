package main

import (
	"bytes"
	"container/list"
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Message is what the JSON service decodes.
type Message struct {
	ID   int               `json:"id"`
	Tags []string          `json:"tags"`
	Meta map[string]string `json:"meta"`
}

// Country is a row of the big static table.
type Country struct {
	Name string
	Code [2]byte
	Area float64
}

var (
	bounded    = map[int]*User{}
	boundedLog []int
	jobs       = make(chan func(), 16)
	hot        = &Lru{list.New(), map[int]*list.Element{}}
	buffers    = sync.Pool{New: func() any { return new(bytes.Buffer) }}
	countries  []Country
	byCode     = map[string]*Country{}
	sum        int
	decoded    chan *Message
	built      string
	idleTick   *time.Ticker
)

// each runs f every few milliseconds for ever, as light load does.
func each(f func(int)) {
	go func() {
		for i := 0; ; i++ {
			f(i)
			time.Sleep(2 * time.Millisecond)
		}
	}()
}

func decode(i int) {
	var m Message
	text := `{"id":` + strconv.Itoa(i) + `,"tags":["a","b"],"meta":{"k":"v` + strconv.Itoa(i) + `"}}`
	if json.Unmarshal([]byte(text), &m) == nil {
		sum += len(m.Tags)
	}
}

func build(i int) {
	var b strings.Builder
	for k := 0; k < 200; k++ {
		b.WriteString(strconv.Itoa(i + k))
	}
	built = b.String()
}

var services = map[string]*Service{
	"bounded-cache": {work: func(round int) {
		users(round*5000, 5000, func(i int, u *User) {
			bounded[i] = u
			boundedLog = append(boundedLog, i)
			if len(boundedLog) > 2000 {
				delete(bounded, boundedLog[0])
				boundedLog = append(boundedLog[:0], boundedLog[1:]...)
			}
		})
	}},
	"worker-pool-idle": {
		start: func() {
			for i := 0; i < 16; i++ {
				go func() {
					buffer := make([]byte, 32<<10)
					for job := range jobs {
						job()
						buffer[0]++
					}
				}()
			}
		},
		work: func(int) {
			var wg sync.WaitGroup
			for i := 0; i < 1000; i++ {
				wg.Add(1)
				jobs <- func() { defer wg.Done(); _ = make([]byte, 1000) }
			}
			wg.Wait()
		},
	},
	"http-keep-alive": {steady: true, start: keepAliveServer, work: func(int) { fetch() }},
	"lru-evicting": {work: func(round int) {
		users(round*5000, 5000, func(i int, u *User) {
			hot.index[i] = hot.order.PushFront(u)
			if hot.order.Len() > 1000 {
				old := hot.order.Back()
				hot.order.Remove(old)
				delete(hot.index, old.Value.(*User).ID)
			}
		})
	}},
	"pool-normal": {work: func(int) {
		for i := 0; i < 1000; i++ {
			b := buffers.Get().(*bytes.Buffer)
			b.Reset()
			b.WriteString(strings.Repeat("z", 1000))
			buffers.Put(b)
		}
	}},
	"ticker-stopped": {work: func(int) {
		for i := 0; i < 1000; i++ {
			t := time.NewTicker(far)
			timer := time.AfterFunc(far, func() {})
			t.Stop()
			timer.Stop()
		}
		if idleTick == nil {
			idleTick = time.NewTicker(far)
		}
	}},
	"context-cancelled": {work: func(int) {
		for i := 0; i < 1000; i++ {
			ctx, cancel := context.WithCancel(rootCtx)
			child, stop := context.WithTimeout(ctx, far)
			_ = child.Err()
			stop()
			cancel()
		}
	}},
	"pipeline": {
		steady: true,
		start: func() {
			first, second := make(chan []byte, 64), make(chan int, 64)
			go func() {
				for b := range first {
					second <- len(b)
				}
			}()
			go func() {
				for n := range second {
					sum += n
				}
			}()
			each(func(i int) { first <- make([]byte, 100+i%1000) })
		},
		work: func(int) {},
	},
	"static-table": {
		start: func() {
			countries = make([]Country, 50000)
			for i := range countries {
				countries[i] = Country{Name: "country " + strconv.Itoa(i), Area: float64(i)}
				byCode[strconv.Itoa(i)] = &countries[i]
			}
		},
		work: func(round int) {
			for i := 0; i < 10000; i++ {
				sum += len(byCode[strconv.Itoa(i)].Name)
			}
		},
	},
	"json-service":   {steady: true, start: func() { each(decode) }, work: decode},
	"string-builder": {steady: true, start: func() { each(build) }, work: build},
	"goroutine-burst": {work: func(int) {
		var wg sync.WaitGroup
		for i := 0; i < 500; i++ {
			wg.Add(1)
			go func() { defer wg.Done(); _ = make([]byte, 4096) }()
		}
		wg.Wait()
	}},
}
