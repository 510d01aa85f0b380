// SPDX-License-Identifier: MPL-2.0
//! Looks whether the servers give candidates, and asks them why if they do not.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use gst::prelude::*;
use gst_webrtc::WebRTCICEGatheringState;

use super::probe::probe;
use super::{Problem, Server, Transport};

/// From the start of gathering; a server nearby needs a few round trips, and
/// libnice tries one that does not answer for half a minute.
const PATIENCE: Duration = Duration::from_millis(2500);
/// Between two rounds of questions for one element.
const INTERVAL: Duration = Duration::from_secs(30);

/// What an element has asked and told already, in all of its sessions.
#[derive(Clone, Debug, Default)]
pub struct Told(Arc<Mutex<(Option<Instant>, HashSet<String>)>>);

impl Told {
    /// The element starts anew.
    pub fn clear(&self) {
        *self.0.lock().unwrap() = Default::default();
    }

    fn may_ask(&self, now: Instant) -> bool {
        let last = &mut self.0.lock().unwrap().0;
        if last.is_some_and(|at| now.saturating_duration_since(at) < INTERVAL) {
            return false;
        }
        *last = Some(now);
        true
    }

    /// Those that were not told yet. Bounded by the number of servers.
    fn news(&self, problems: Vec<Problem>) -> Vec<Problem> {
        let told = &mut self.0.lock().unwrap().1;
        let news = problems.into_iter();
        news.filter(|problem| told.insert(problem.text())).collect()
    }
}

#[derive(Debug, Default)]
struct Seen {
    /// Addresses at relays, and addresses as STUN servers see us.
    relayed: HashSet<String>,
    reflexive: HashSet<String>,
    begun: bool,
    complete: bool,
    /// Nobody wants to know any more.
    ended: bool,
}

/// More are not told apart.
const MOST_CANDIDATES: usize = 64;

impl Seen {
    /// RFC 8839 section 5.1: `candidate:foundation component transport priority
    /// address port typ ...`
    fn add(&mut self, candidate: &str) {
        let words: Vec<&str> = candidate.split_whitespace().collect();
        let [_, _, _, _, address, port, "typ", kind, ..] = words[..] else {
            return;
        };
        let of = match kind {
            "relay" => &mut self.relayed,
            "srflx" => &mut self.reflexive,
            _ => return,
        };
        if of.len() < MOST_CANDIDATES {
            of.insert(format!("{address} {port}"));
        }
    }

    /// Whether there is at least one candidate by each of the servers, as far as
    /// that can be seen.
    fn suffices(&self, servers: &[Server]) -> bool {
        // Of several at one address libnice keeps one: then they are asked in vain.
        let relays = servers.iter().filter(|s| s.login.is_some()).count();
        let has_stun = servers.iter().any(|s| s.login.is_none());
        // Without NAT an address by STUN is one that is known already.
        self.relayed.len() >= relays && (!has_stun || !self.reflexive.is_empty())
    }
}

type State = Arc<(Mutex<Seen>, Condvar)>;

/// Of one webrtcbin. Ends when it is dropped.
pub struct Watch(State);

impl Watch {
    /// `post` is given what there is to tell, at some time and by another thread.
    pub fn new(
        webrtcbin: &gst::Element,
        servers: Vec<Server>,
        told: Told,
        post: impl Fn(Vec<Problem>) + Clone + Send + Sync + 'static,
    ) -> Self {
        let state = State::default();
        let watch = Self(state.clone());
        if servers.is_empty() {
            return watch;
        }
        let seen = state.clone();
        webrtcbin.connect("on-ice-candidate", false, move |values| {
            if let Some(candidate) = values.get(2).and_then(|v| v.get::<String>().ok()) {
                seen.0.lock().unwrap().add(&candidate);
            }
            None
        });
        webrtcbin.connect_notify(Some("ice-gathering-state"), move |webrtcbin, _| {
            let now: WebRTCICEGatheringState = webrtcbin.property("ice-gathering-state");
            let mut seen = state.0.lock().unwrap();
            if now == WebRTCICEGatheringState::Complete {
                seen.complete = true;
                state.1.notify_all();
            }
            if now != WebRTCICEGatheringState::New && !std::mem::replace(&mut seen.begun, true) {
                let (state, servers, told, post) =
                    (state.clone(), servers.clone(), told.clone(), post.clone());
                // Without a thread nobody is told; the call goes on.
                let _ = std::thread::Builder::new()
                    .name("ice-servers".into())
                    .spawn(move || look(&state, &servers, &told, post));
            }
        });
        watch
    }
}

impl Watch {
    /// A TURN server has given something.
    pub fn has_relays(&self) -> bool {
        !self.0.0.lock().unwrap().relayed.is_empty()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().ended = true;
        self.0.1.notify_all();
    }
}

fn look(state: &State, servers: &[Server], told: &Told, post: impl Fn(Vec<Problem>)) {
    {
        let seen = state.0.lock().unwrap();
        let waited = state
            .1
            .wait_timeout_while(seen, PATIENCE, |seen| !seen.complete && !seen.ended);
        let Ok((seen, _)) = waited else { return };
        let has_tls = servers.iter().any(|s| s.transport == Transport::Tls);
        if seen.ended || (seen.suffices(servers) && !has_tls) {
            return;
        }
    }
    if !told.may_ask(Instant::now()) {
        return;
    }
    // One of them that is slow does not hold up the others.
    let problems = std::thread::scope(|scope| {
        let asked: Vec<_> = servers
            .iter()
            .map(|server| scope.spawn(move || probe(server)))
            .collect();
        asked
            .into_iter()
            .filter_map(|thread| thread.join().ok().flatten())
            .collect()
    });
    let news = told.news(problems);
    if !news.is_empty() {
        post(news);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(turn: usize, stun: bool) -> Vec<Server> {
        let turn = (0..turn).map(|n| Server::turn(&format!("turn://u:p@192.0.2.{n}")));
        let stun = stun.then(|| Server::stun("stun://192.0.2.9"));
        turn.chain(stun).flatten().collect()
    }

    #[test]
    fn a_server_without_a_candidate_is_missed() {
        let mut seen = Seen::default();
        assert!(seen.suffices(&[]));
        assert!(!seen.suffices(&servers(1, false)));
        seen.add("candidate:1 1 UDP 2015363327 192.0.2.5 50000 typ host");
        seen.add(
            "candidate:2 1 UDP 1677722111 198.51.100.7 50000 typ srflx raddr 192.0.2.5 rport 50000",
        );
        assert!(seen.suffices(&servers(0, true)));
        assert!(!seen.suffices(&servers(1, true)));
        for _ in 0..2 {
            // Once for each media line that is not bundled.
            seen.add("candidate:3 1 UDP 505413631 203.0.113.1 60000 typ relay raddr 192.0.2.5 rport 50000");
        }
        assert!(seen.suffices(&servers(1, true)));
        assert!(!seen.suffices(&servers(2, true)), "the second gave none");
        seen.add(
            "candidate:4 1 UDP 505413631 203.0.113.2 60000 typ relay raddr 192.0.2.5 rport 50000",
        );
        assert!(seen.suffices(&servers(2, true)));
    }

    #[test]
    fn nonsense_is_no_candidate_and_their_number_is_bounded() {
        let mut seen = Seen::default();
        for text in [
            "",
            "candidate:1",
            "a b c d e f typ",
            "a b c d e f type relay",
        ] {
            seen.add(text);
        }
        for port in 0..1000 {
            seen.add(&format!("candidate:3 1 UDP 1 203.0.113.1 {port} typ relay"));
        }
        assert_eq!(seen.relayed.len(), MOST_CANDIDATES);
        assert!(seen.reflexive.is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_once_and_asked_seldom() {
        let told = Told::default();
        let now = Instant::now();
        assert!(told.may_ask(now));
        assert!(!told.may_ask(now + INTERVAL / 2));
        assert!(told.may_ask(now + INTERVAL));
        let problem = Problem {
            server: servers(1, false).remove(0),
            trouble: super::super::Trouble::Silent,
        };
        assert_eq!(told.news(vec![problem.clone()]).len(), 1);
        assert_eq!(told.news(vec![problem.clone()]), []);
        told.clear();
        assert_eq!(told.news(vec![problem.clone()]), [problem]);
    }
}
