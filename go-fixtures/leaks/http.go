package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"gosleuth.test/fixtures/fixture"
)

var (
	serverURL string
	// The child ends when this closes, which it does with this process, however that ends.
	lifeline *os.File
)

// serveBodies is the other process: an HTTP server whose answers are larger than what fits into the
// client's buffers.
func serveBodies() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		os.Exit(1)
	}
	body := strings.Repeat("x", 64<<10)
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, body) }))
	os.Stdout.WriteString("http://" + listener.Addr().String() + "/\n")
	io.Copy(io.Discard, os.Stdin)
}

// startServer starts this program again as a server, so that its memory is not counted here.
func startServer() {
	if serverURL != "" {
		return
	}
	in, life, err := os.Pipe()
	if err != nil {
		fixture.Fail(err.Error())
	}
	out, report, err := os.Pipe()
	if err != nil {
		fixture.Fail(err.Error())
	}
	child := exec.Command("/proc/self/exe", "serve")
	child.Stdin, child.Stdout = in, report
	if err := child.Start(); err != nil {
		fixture.Fail(err.Error())
	}
	in.Close()
	report.Close()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		fixture.Fail(err.Error())
	}
	out.Close()
	lifeline = life
	serverURL = strings.TrimSpace(line)
}

// closeBody asks once and does it right: what net/http makes for itself on first use is no leak.
func closeBody() {
	startServer()
	response, err := http.Get(serverURL)
	if err != nil {
		fixture.Fail(err.Error())
	}
	io.Copy(io.Discard, response.Body)
	response.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	time.Sleep(waitStart)
}

func leakBodies(int) {
	for i := 0; i < 40; i++ {
		response, err := http.Get(serverURL)
		if err != nil {
			fixture.Fail(err.Error())
		}
		if response.StatusCode != http.StatusOK {
			fixture.Fail(response.Status)
		}
	}
	time.Sleep(waitStart)
}

var (
	keepAlive   sync.Once
	served      uint64
	ownURL      string
	clientConns = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
)

// keepAliveServer answers its own client over connections that stay open.
func keepAliveServer() {
	keepAlive.Do(func() {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fixture.Fail(err.Error())
		}
		ownURL = "http://" + listener.Addr().String() + "/"
		go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "hello")
		}))
		go func() {
			for {
				fetch()
				time.Sleep(5 * time.Millisecond)
			}
		}()
	})
}

func fetch() {
	response, err := clientConns.Get(ownURL)
	if err != nil {
		return
	}
	io.Copy(io.Discard, response.Body)
	response.Body.Close()
}
