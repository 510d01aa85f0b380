// SPDX-License-Identifier: MPL-2.0
//! By which of this machine's addresses the signalling server is reached. When
//! that changes, the network is another one: connections by the old address are
//! dead, and nobody will say so.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

/// How often it is looked.
const INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub struct Reach {
    server: Option<SocketAddr>,
    local: Option<IpAddr>,
    look: Option<Instant>,
}

/// Host and port of `ws://host:port/path`, and the like.
fn authority(uri: &str) -> Option<(String, u16)> {
    let (scheme, rest) = uri.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let default = if matches!(scheme, "wss" | "https") {
        443
    } else {
        80
    };
    let (host, port) = match authority.rsplit_once(':') {
        // Not in the middle of an IPv6 address.
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (authority, default),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host.to_owned(), port))
}

/// The address from which packets to the server would leave. Sends nothing.
fn local_for(server: SocketAddr) -> Option<IpAddr> {
    let any = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(server).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

impl Reach {
    /// The server was reached just now. May wait for its name.
    pub fn on_up(&mut self, now: Instant, uri: &str) {
        self.server = authority(uri).and_then(|at| at.to_socket_addrs().ok()?.next());
        self.local = self.server.and_then(local_for);
        self.look = self.local.map(|_| now + INTERVAL);
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.look
    }

    /// True once after the address has changed. Without any way to the server
    /// that is not known yet.
    pub fn poll(&mut self, now: Instant) -> bool {
        if self.look.is_none_or(|at| now < at) {
            return false;
        }
        self.look = Some(now + INTERVAL);
        match self.server.and_then(local_for) {
            Some(local) if self.local != Some(local) => self.local.replace(local).is_some(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_found_in_uris() {
        for (uri, expected) in [
            ("ws://127.0.0.1:8443", Some(("127.0.0.1", 8443))),
            ("wss://example.org/path?x=1", Some(("example.org", 443))),
            ("ws://[::1]:9", Some(("::1", 9))),
            ("ws://[fe80::1]", Some(("fe80::1", 80))),
            ("http://user:secret@host:1/x", Some(("host", 1))),
            ("no uri", None),
            ("ws://host:port", None),
        ] {
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(authority(uri), expected, "{uri}");
        }
    }

    #[test]
    fn the_same_address_is_no_change() {
        let mut reach = Reach::default();
        let now = Instant::now();
        assert!(!reach.poll(now), "nothing is known");
        reach.on_up(now, "ws://127.0.0.1:8443");
        assert_eq!(reach.local, Some("127.0.0.1".parse().unwrap()));
        assert!(!reach.poll(now + INTERVAL));
        // As if it had been another one.
        reach.local = Some("192.0.2.1".parse().unwrap());
        assert!(!reach.poll(now + INTERVAL), "too soon");
        assert!(reach.poll(now + 2 * INTERVAL));
        assert!(!reach.poll(now + 3 * INTERVAL), "once");
    }
}
