//! What the descriptors of a process are: files, pipes, sockets with both their addresses (/proc/PID/fd, /proc/PID/net).

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Lines of one table of sockets that are read.
const MAX_SOCKETS: usize = 1 << 20;

/// Looks descriptors of one process up; the tables of sockets are read once, when the first socket is met.
pub struct Descriptors {
    pid: u32,
    sockets: Option<HashMap<u64, String>>,
    known: HashMap<u64, Option<String>>,
}

impl Descriptors {
    pub fn new(pid: u32) -> Descriptors {
        Descriptors { pid, sockets: None, known: HashMap::new() }
    }

    /// `tcp 10.0.0.2:4711 -> 10.0.0.7:5432 (established)`, `unix /run/x.sock`, `/var/log/x`, `pipe`. `None` where the descriptor
    /// is not open any more.
    pub fn describe(&mut self, fd: u64) -> Option<String> {
        if let Some(known) = self.known.get(&fd) {
            return known.clone();
        }
        let link = fs::read_link(format!("/proc/{}/fd/{fd}", self.pid)).ok();
        let text = link.map(|l| self.name(&l.to_string_lossy()));
        self.known.insert(fd, text.clone());
        text
    }

    fn name(&mut self, link: &str) -> String {
        if let Some(inode) = link.strip_prefix("socket:[").and_then(|l| l.strip_suffix(']')?.parse::<u64>().ok()) {
            let pid = self.pid;
            let found = self.sockets.get_or_insert_with(|| sockets(pid)).get(&inode);
            return found.cloned().unwrap_or_else(|| "socket".to_owned());
        }
        if link.starts_with("pipe:[") {
            return "pipe".to_owned();
        }
        link.strip_prefix("anon_inode:").map_or(link, |n| n.trim_matches(['[', ']'])).to_owned()
    }
}

/// Sockets of the process's network namespace, by inode.
fn sockets(pid: u32) -> HashMap<u64, String> {
    let mut out = HashMap::new();
    for kind in ["tcp", "tcp6", "udp", "udp6"] {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/net/{kind}")) else { continue };
        out.extend(text.lines().skip(1).take(MAX_SOCKETS).filter_map(|l| inet(kind.trim_end_matches('6'), l)));
    }
    if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/net/unix")) {
        out.extend(text.lines().skip(1).take(MAX_SOCKETS).filter_map(|l| {
            let words: Vec<&str> = l.split_whitespace().collect();
            Some((words.get(6)?.parse().ok()?, format!("unix {}", words.get(7).unwrap_or(&"(no name)"))))
        }));
    }
    out
}

/// One line of /proc/net/tcp or udp (Documentation/networking/proc_net_tcp.rst): inode and words.
fn inet(kind: &str, line: &str) -> Option<(u64, String)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (local, peer) = (address(words.get(1)?)?, address(words.get(2)?)?);
    let state = match (kind, *words.get(3)?) {
        ("tcp", "01") => "established",
        ("tcp", "02") => "connecting",
        ("tcp", "04" | "05") => "closing",
        ("tcp", "08") => "closed by the peer",
        ("tcp", "0A") => "listening",
        _ => "",
    };
    let mut text = format!("{kind} {local}");
    if peer.port() != 0 {
        text.push_str(&format!(" -> {peer}"));
    }
    if !state.is_empty() {
        text.push_str(&format!(" ({state})"));
    }
    Some((words.get(9)?.parse().ok()?, text))
}

/// `0100007F:1538`: the address in words of 32 bits of the machine's byte order, the port in hex.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':').filter(|(ip, _)| ip.len().is_multiple_of(8))?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Vec<[u8; 4]> = (0..ip.len() / 8)
        .map(|i| Some(u32::from_str_radix(ip.get(8 * i..8 * i + 8)?, 16).ok()?.to_ne_bytes()))
        .collect::<Option<_>>()?;
    let ip = match words.as_slice() {
        [one] => IpAddr::V4(Ipv4Addr::from(*one)),
        [a, b, c, d] => {
            let bytes: [u8; 16] = [*a, *b, *c, *d].concat().try_into().ok()?;
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_kernels_tables() {
        assert_eq!(address("0100007F:1538"), Some("127.0.0.1:5432".parse().unwrap()));
        assert_eq!(address("0000000000000000FFFF00000100007F:0050"), Some("127.0.0.1:80".parse().unwrap()));
        assert_eq!(address("00000000000000000000000001000000:0050"), Some("[::1]:80".parse().unwrap()));
        for bad in ["", "01:02", "0100007F", "0100007Fé:1", "zz00007F:1538"] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }

    #[test]
    fn own_sockets_are_found_with_their_peers() {
        use std::os::fd::AsRawFd;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut d = Descriptors::new(std::process::id());
        let text = d.describe(client.as_raw_fd() as u64).unwrap();
        let (local, peer) = (client.local_addr().unwrap(), listener.local_addr().unwrap());
        assert_eq!(text, format!("tcp {local} -> {peer} (established)"));
        assert_eq!(d.describe(listener.as_raw_fd() as u64), Some(format!("tcp {peer} (listening)")));
        assert_eq!(d.describe(1 << 40), None);
    }
}
