//! The waits-for graph as an image: goroutines and primitives in columns, those who wait left of those they wait for.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
};

use super::locks::{certainty, drawn, said};
use crate::{
    analysis::locks::{Certainty, Locks},
    base::{Addr, Goid, units},
};

/// Boxes that are drawn; the rest is counted in a line at the top.
const MAX_NODES: usize = 400;
const ROW: usize = 64;
const GAP: usize = 110;

#[derive(Default)]
struct Node {
    lines: Vec<String>,
    /// 0: a goroutine, 1: a primitive.
    primitive: bool,
    cycle: bool,
    leaked: bool,
    /// (to, label, sure).
    next: Vec<(usize, String, bool)>,
}

/// Boxes and arrows. Goroutines that wait for the same and that nobody waits for share one box.
fn nodes(r: &Locks) -> Vec<Node> {
    let in_cycle: std::collections::HashSet<Goid> = r.cycles.iter().flatten().copied().collect();
    let leaked: std::collections::HashSet<Goid> = r.proven_leaks.iter().copied().collect();
    let holds: std::collections::HashSet<Goid> = drawn(r).filter_map(|e| e.holder).collect();
    let mut waits: BTreeMap<Goid, Vec<Addr>> = BTreeMap::new();
    for e in drawn(r) {
        let list = waits.entry(e.waiter).or_default();
        if !list.contains(&e.primitive.addr) {
            list.push(e.primitive.addr);
        }
    }
    let mut out: Vec<Node> = Vec::new();
    let mut primitives: HashMap<Addr, usize> = HashMap::new();
    for e in drawn(r) {
        primitives.entry(e.primitive.addr).or_insert_with(|| {
            let mut lines =
                vec![format!("{} {}", e.primitive.kind.text(), e.primitive.place), e.primitive.addr.to_string()];
            lines.extend(e.primitive.state.as_ref().map(said));
            out.push(Node { lines, primitive: true, ..Node::default() });
            out.len() - 1
        });
    }
    let does: HashMap<Goid, &str> = r.chains.iter().filter_map(|c| Some((*c.goids.last()?, c.root.as_str()))).collect();
    let mut goroutines: HashMap<Goid, usize> = HashMap::new();
    let mut together: BTreeMap<Vec<Addr>, Vec<Goid>> = BTreeMap::new();
    for (&g, list) in &waits {
        if holds.contains(&g) {
            continue;
        }
        together.entry(list.clone()).or_default().push(g);
    }
    let one = |goids: &[Goid]| {
        let mut shown: Vec<String> = goids.iter().take(6).map(ToString::to_string).collect();
        if goids.len() > 6 {
            shown.push("...".to_owned());
        }
        let mut lines = match goids {
            [g] => vec![format!("goroutine {g}")],
            many => vec![format!("{} goroutines", units::count(many.len() as u64)), shown.join(", ")],
        };
        if let [g] = goids
            && let Some(text) = does.get(g)
        {
            lines.extend(wrap(text, 60));
        }
        Node {
            lines,
            cycle: goids.iter().any(|g| in_cycle.contains(g)),
            leaked: goids.iter().all(|g| leaked.contains(g)),
            ..Node::default()
        }
    };
    for (list, goids) in together {
        let mut node = one(&goids);
        node.next = list.iter().map(|a| (primitives[a], String::new(), true)).collect();
        out.push(node);
    }
    let mut holders: Vec<Goid> = holds.into_iter().collect();
    holders.sort_unstable();
    for g in holders {
        let mut node = one(&[g]);
        let list = waits.get(&g).map(Vec::as_slice).unwrap_or_default();
        node.next = list.iter().map(|a| (primitives[a], String::new(), true)).collect();
        goroutines.insert(g, out.len());
        out.push(node);
    }
    for e in drawn(r) {
        if let Some(to) = e.holder.and_then(|h| goroutines.get(&h).copied()) {
            let from = primitives[&e.primitive.addr];
            if !out[from].next.iter().any(|n| n.0 == to) {
                out[from].next.push((to, certainty(e.certainty).to_owned(), e.certainty == Certainty::Sure));
            }
        }
    }
    out
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut out = vec![String::new()];
    for word in text.split(' ') {
        let last = out.len() - 1;
        if !out[last].is_empty() && out[last].chars().count() + word.chars().count() >= width {
            out.push(word.to_owned());
        } else {
            if !out[last].is_empty() {
                out[last].push(' ');
            }
            out[last].push_str(word);
        }
    }
    out
}

/// The column of each box: one right of all that lead to it; the arrow that closes a circle leads back.
fn columns(nodes: &[Node]) -> Vec<usize> {
    // Depth first, from boxes that nothing leads to first: the order in which boxes are left, and arrows to a box that is still open.
    let mut led_to = vec![false; nodes.len()];
    nodes.iter().flat_map(|n| &n.next).for_each(|e| led_to[e.0] = true);
    let mut starts: Vec<usize> = (0..nodes.len()).collect();
    starts.sort_by_key(|&n| (led_to[n], nodes[n].primitive));
    let (mut met, mut open) = (vec![false; nodes.len()], vec![false; nodes.len()]);
    let mut back = std::collections::HashSet::new();
    let mut left = Vec::with_capacity(nodes.len());
    for start in starts {
        if std::mem::replace(&mut met[start], true) {
            continue;
        }
        open[start] = true;
        let mut way = vec![(start, 0)];
        while let Some((n, i)) = way.last_mut() {
            let (from, to) = (*n, nodes[*n].next.get(*i).map(|e| e.0));
            *i += 1;
            match to {
                Some(to) if open[to] => _ = back.insert((from, to)),
                Some(to) if !std::mem::replace(&mut met[to], true) => {
                    open[to] = true;
                    way.push((to, 0));
                }
                Some(_) => {}
                None => {
                    open[from] = false;
                    left.push(from);
                    way.pop();
                }
            }
        }
    }
    let mut column = vec![0usize; nodes.len()];
    for &n in left.iter().rev() {
        for &(to, ..) in nodes[n].next.iter().filter(|e| !back.contains(&(n, e.0))) {
            column[to] = column[to].max(column[n] + 1);
        }
    }
    column
}

/// Pixels of so many letters: a fixed-width letter of 12 pixels is up to 7.3 wide.
fn width(chars: usize) -> usize {
    chars * 73 / 10 + 20
}

fn escape(s: &str) -> String {
    s.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

pub fn svg(out: &mut dyn Write, r: &Locks) -> io::Result<()> {
    let mut all = nodes(r);
    let left_out = all.len().saturating_sub(MAX_NODES);
    all.truncate(MAX_NODES);
    for n in &mut all {
        n.next.retain(|e| e.0 < MAX_NODES);
    }
    let column = columns(&all);
    let last = column.iter().copied().max().unwrap_or(0);
    let mut x = vec![20usize; last + 2];
    for c in 0..=last {
        let wide =
            all.iter().zip(&column).filter(|n| *n.1 == c).flat_map(|n| &n.0.lines).map(|l| l.chars().count()).max();
        x[c + 1] = x[c] + width(wide.unwrap_or(0)) + GAP;
    }
    let mut y = vec![50usize; last + 1];
    let mut places = vec![(0, 0, 0, 0); all.len()];
    let mut from: Vec<Vec<usize>> = vec![Vec::new(); all.len()];
    all.iter().enumerate().for_each(|(n, node)| node.next.iter().for_each(|e| from[e.0].push(n)));
    for c in 0..=last {
        // Boxes in the order of those that lead to them, so that few arrows cross.
        let mut here: Vec<usize> = (0..all.len()).filter(|&n| column[n] == c).collect();
        here.sort_by_key(|&n| {
            let left: Vec<usize> = from[n].iter().filter(|&&f| column[f] < c).map(|&f| places[f].1).collect();
            left.iter().sum::<usize>().checked_div(left.len()).unwrap_or(0)
        });
        for n in here {
            let lines = &all[n].lines;
            let wide = width(lines.iter().map(|l| l.chars().count()).max().unwrap_or(0));
            let high = lines.len() * 16 + 12;
            places[n] = (x[c], y[c], wide, high);
            y[c] += high.max(ROW - 24) + 24;
        }
    }
    let (wide, height) = ((x[last + 1] - GAP + 20).max(width(100)), 40 + y.iter().copied().max().unwrap_or(50) + 20);
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{wide}\" height=\"{height}\" viewBox=\"0 0 {wide} {height}\" \
         font-family=\"monospace\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <defs><marker id=\"a\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\">\
         <path d=\"M0,0 L8,4 L0,8 z\"/></marker></defs>"
    )?;
    let more = if left_out > 0 { format!(", {left_out} more boxes are not drawn") } else { String::new() };
    writeln!(
        out,
        "<text x=\"20\" y=\"24\">Who waits for whom: red is a deadlock, orange is stuck for ever, dashed arrows are not sure{more}</text>"
    )?;
    for ((n, &(ax, ay, aw, ah)), &c) in all.iter().zip(&places).zip(&column) {
        // Arrows start where the column ends: boxes of a column are not equally wide.
        let end = x[c + 1] - GAP;
        for (to, label, sure) in &n.next {
            let (bx, by, bw, bh) = places[*to];
            // To the right from side to side; back along the lower edges.
            let (x1, y1, x2, y2) = if bx > ax {
                (ax + aw, ay + ah / 2, bx, by + bh / 2)
            } else {
                (ax + aw / 2, ay + ah, bx + bw / 2, by + bh)
            };
            let bend = if bx > ax {
                format!("L{end} {y1} C{} {y1} {} {y2}", (end + x2) / 2, (end + x2) / 2)
            } else {
                format!("C{x1} {} {x2} {}", y1.max(y2) + 40, y1.max(y2) + 40)
            };
            let dash = if *sure { "" } else { " stroke-dasharray=\"5,4\"" };
            writeln!(
                out,
                "<path d=\"M{x1} {y1} {bend} {x2} {y2}\" fill=\"none\" stroke=\"#444\"{dash} marker-end=\"url(#a)\"/>"
            )?;
            if !label.is_empty() {
                // Where the arrow has nearly come to its end: arrows of one box have parted there.
                let at = if bx > ax { (3 * x2 + end) / 4 } else { (x1 + x2) / 2 };
                writeln!(
                    out,
                    "<text x=\"{}\" y=\"{}\" fill=\"#666\" font-size=\"10\" text-anchor=\"middle\">{}</text>",
                    at,
                    if bx > ax { (8 * y2 + 2 * y1) / 10 - 5 } else { y1.max(y2) + 26 },
                    escape(label)
                )?;
            }
        }
    }
    for (n, &(px, py, w, h)) in all.iter().zip(&places) {
        let fill = match (n.cycle, n.leaked, n.primitive) {
            (true, ..) => "#ffc9c9",
            (_, true, _) => "#ffe3b3",
            (_, _, true) => "#e7edf5",
            _ => "#eef7ea",
        };
        let round = if n.primitive { 0 } else { 10 };
        writeln!(
            out,
            "<rect x=\"{px}\" y=\"{py}\" width=\"{w}\" height=\"{h}\" rx=\"{round}\" fill=\"{fill}\" stroke=\"#444\"/>"
        )?;
        for (i, l) in n.lines.iter().enumerate() {
            writeln!(out, "<text x=\"{}\" y=\"{}\">{}</text>", px + 10, py + 18 + 16 * i, escape(l))?;
        }
    }
    writeln!(out, "</svg>")
}
