// SPDX-License-Identifier: MPL-2.0
//! What goes wrong in the life of a session, between processes in network
//! namespaces: the network is gone for 5 s, this machine gets another address, the
//! signalling server is restarted, the sender is killed and comes back. The
//! session resumes by itself.
//!
//! Needs root and `ip`; skipped elsewhere. `RECONNECT_ROUNDS=20` does all twenty
//! times and looks at the memory.

#![allow(clippy::print_stdout)] // Figures, for who runs it by hand.

mod common;

use common::*;
use gst::prelude::*;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const ROLE: &str = "RECONNECT_ROLE";
const SERVER: &str = "10.77.1.2:8443";
/// After the network is back.
const LIMIT: Duration = Duration::from_secs(3);

fn ip(words: &str) -> bool {
    Command::new("ip")
        .args(words.split_whitespace())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Two hosts, `a` and `b`, and a router between them.
struct Hosts {
    prefix: String,
    /// Of `b`, the last byte.
    address: u8,
}

impl Hosts {
    fn new(name: &str) -> Option<Self> {
        let hosts = Self {
            prefix: format!("rc{}{name}", std::process::id()),
            address: 2,
        };
        let [a, r, b] = ["a", "r", "b"].map(|host| hosts.name(host));
        let made = [&a, &r, &b].into_iter().all(|host| {
            ip(&format!("netns add {host}")) && ip(&format!("-n {host} link set lo up"))
        }) && [(&a, "va", "10.77.1"), (&b, "vb", "10.77.2")]
            .into_iter()
            .all(|(host, veth, net)| {
                ip(&format!(
                    "-n {r} link add {veth} type veth peer name eth0 netns {host}"
                )) && ip(&format!("-n {r} addr add {net}.1/24 dev {veth}"))
                    && ip(&format!("-n {r} link set {veth} up"))
                    && ip(&format!("-n {host} addr add {net}.2/24 dev eth0"))
                    && ip(&format!("-n {host} link set eth0 up"))
                    && ip(&format!("-n {host} route add default via {net}.1"))
            });
        (made && hosts.forward(true)).then_some(hosts)
    }

    fn name(&self, host: &str) -> String {
        format!("{}{host}", self.prefix)
    }

    fn forward(&self, on: bool) -> bool {
        let text = format!("echo {} > /proc/sys/net/ipv4/ip_forward", u8::from(on));
        let router = self.name("r");
        Command::new("ip")
            .args(["netns", "exec", &router, "sh", "-c", &text])
            .status()
            .is_ok_and(|status| status.success())
    }

    /// `b` is somewhere else.
    fn move_b(&mut self) {
        let (b, old) = (self.name("b"), self.address);
        self.address = if old == 2 { 3 } else { 2 };
        let new = self.address;
        assert!(ip(&format!("-n {b} addr del 10.77.2.{old}/24 dev eth0")));
        assert!(ip(&format!("-n {b} addr add 10.77.2.{new}/24 dev eth0")));
        assert!(ip(&format!("-n {b} route replace default via 10.77.2.1")));
    }

    /// This program, on a host.
    fn run(&self, host: &str, role: &str) -> Process {
        let program = std::env::current_exe().unwrap();
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.name(host)])
            .arg(program)
            .args(["--exact", "child", "--nocapture"])
            .env(ROLE, role)
            // Each new thread may get an arena of its own from glibc, which keeps
            // it: that hides what is really held.
            .env("MALLOC_ARENA_MAX", "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let seen = Arc::new(Told::default());
        let (told, out) = (seen.clone(), child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                told.on_line(&line);
            }
        });
        Process { child, seen }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in ["a", "r", "b"] {
            ip(&format!("netns del {}", self.name(host)));
        }
    }
}

/// What a process has told.
#[derive(Default)]
struct Told {
    pictures: AtomicU64,
    last: Mutex<Option<Instant>>,
    longest_gap: Mutex<Duration>,
    signalling: AtomicU64,
    outages: AtomicU64,
    /// What malloc has given out and not got back, in kB.
    allocated: AtomicU64,
}

impl Told {
    fn on_line(&self, line: &str) {
        let now = Instant::now();
        if line == "picture" {
            self.pictures.fetch_add(1, Ordering::SeqCst);
            if let Some(before) = self.last.lock().unwrap().replace(now) {
                let mut longest = self.longest_gap.lock().unwrap();
                *longest = longest.max(now - before);
            }
        } else if let Some(number) = line.strip_prefix("signalling ") {
            self.signalling
                .store(number.parse().unwrap(), Ordering::SeqCst);
        } else if let Some(number) = line.strip_prefix("outages ") {
            self.outages
                .store(number.parse().unwrap(), Ordering::SeqCst);
        } else if let Some(number) = line.strip_prefix("allocated ") {
            self.allocated
                .store(number.parse().unwrap(), Ordering::SeqCst);
        }
    }
}

struct Process {
    child: Child,
    seen: Arc<Told>,
}

impl Process {
    fn pictures(&self) -> u64 {
        self.seen.pictures.load(Ordering::SeqCst)
    }

    /// From now to the next picture, with more behind it.
    #[track_caller]
    fn time_to_picture(&self, what: &str) -> Duration {
        let (start, before) = (Instant::now(), self.pictures());
        wait_for(what, || self.pictures() > before);
        let took = start.elapsed();
        wait_for(what, || self.pictures() > before + 15);
        took
    }

    fn is_registered(&self) -> bool {
        self.seen.signalling.load(Ordering::SeqCst) == 1
    }

    fn memory(&self) -> Memory {
        Memory {
            resident: self.resident(),
            allocated: self.seen.allocated.load(Ordering::SeqCst),
        }
    }

    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Memory of a process, in kB.
#[derive(Clone, Copy, Debug)]
struct Memory {
    resident: u64,
    allocated: u64,
}

fn allocated() -> u64 {
    // SAFETY: it only reads.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as u64 / 1024
}

/// The other processes, each on its host.
#[test]
fn child() {
    let tell = |text: &str| {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}");
        let _ = out.flush();
    };
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    if role == "server" {
        use gst_plugin_webrtc_signalling::{handlers::Handler, server::Server};
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind(SERVER).await.unwrap();
            let server = Server::spawn(Handler::new);
            while let Ok((stream, _)) = listener.accept().await {
                let mut server = server.clone();
                tokio::spawn(async move { server.accept_async(stream).await });
            }
        });
    }
    init();
    let pipeline = if role == "sender" {
        Pipeline::new(&format!(
            "{LIVE} ! dualwebrtcsink name=peer connect-timeout=0 \
             signaller::uri=ws://{SERVER} encoder::bitrate=800000 encoder::refresh-interval=2000"
        ))
    } else {
        let pipeline = Pipeline::new(&format!(
            "dualwebrtcsrc name=peer connect-timeout=0 signaller::uri=ws://{SERVER} ! \
             fakesink name=out sync=false"
        ));
        let pad = pipeline.element("out").static_pad("sink").unwrap();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            tell("picture");
            gst::PadProbeReturn::Ok
        });
        pipeline
    };
    let pipeline = pipeline.play();
    for turn in 0u64.. {
        std::thread::sleep(Duration::from_millis(50));
        if turn.is_multiple_of(20) {
            // What is resident is in use then, or between what is.
            // SAFETY: it gives back free memory.
            unsafe { libc::malloc_trim(0) };
        }
        tell(&format!(
            "signalling {}",
            u8::from(pipeline.stat::<bool>("peer", "signalling"))
        ));
        tell(&format!("allocated {}", allocated()));
        if role != "sender" {
            tell(&format!(
                "outages {}",
                pipeline.stat::<u64>("peer", "outages")
            ));
        }
        pipeline.assert_no_error();
    }
}

fn rounds() -> usize {
    let rounds = std::env::var("RECONNECT_ROUNDS").ok();
    rounds.and_then(|r| r.parse().ok()).unwrap_or(1)
}

struct Scene {
    hosts: Hosts,
    server: Process,
    sender: Process,
    receiver: Process,
}

impl Scene {
    fn new(name: &str) -> Option<Self> {
        let Some(hosts) = Hosts::new(name) else {
            println!("skipped: no network namespaces can be made here");
            return None;
        };
        let server = hosts.run("a", "server");
        let sender = hosts.run("a", "sender");
        let receiver = hosts.run("b", "receiver");
        receiver.time_to_picture("the first picture");
        Some(Self {
            hosts,
            server,
            sender,
            receiver,
        })
    }

    fn settle(&self) {
        // The estimate and the jitter buffer are at rest again.
        std::thread::sleep(Duration::from_secs(3));
        wait_for("the signalling server", || {
            self.receiver.is_registered() && self.sender.is_registered()
        });
    }
}

/// Does a fault again and again; it says how long it took to recover.
fn repeat(name: &str, mut fault: impl FnMut(&mut Scene) -> Duration) {
    let Some(mut scene) = Scene::new(name) else {
        return;
    };
    let (mut times, mut memory) = (Vec::new(), Vec::new());
    for round in 0..rounds() {
        scene.settle();
        memory.push([scene.sender.memory(), scene.receiver.memory()]);
        let took = fault(&mut scene);
        println!("{name} {round}: {} ms", took.as_millis());
        times.push(took);
    }
    let longest = times.iter().max().unwrap();
    assert!(*longest <= LIMIT, "{times:?}");
    for (who, of) in [("sender", 0), ("receiver", 1)] {
        let resident: Vec<_> = memory.iter().map(|pair| pair[of].resident).collect();
        let allocated: Vec<_> = memory.iter().map(|pair| pair[of].allocated).collect();
        println!("{name}: {who}, resident, kB: {resident:?}");
        println!("{name}: {who}, allocated, kB: {allocated:?}");
        // A killed one begins anew.
        if memory.len() >= 10 && (name, who) != ("killed", "sender") {
            assert!(is_flat(&allocated, 1.08), "the {who} leaks: {allocated:?}");
            assert!(is_flat(&resident, 1.1), "the {who} grows: {resident:?}");
        }
    }
}

/// What is allocated once is there after a few rounds: the second half of them adds
/// nothing.
fn is_flat(of_rounds: &[u64], limit: f64) -> bool {
    let (first, second) = of_rounds.split_at(of_rounds.len() / 2);
    let most = |of: &[u64]| of.iter().copied().max().unwrap_or(0) as f64;
    most(second) <= most(first) * limit
}

#[test]
fn the_network_is_gone_for_five_seconds() {
    repeat("gone", |scene| {
        let outages = scene.receiver.seen.outages.load(Ordering::SeqCst);
        assert!(scene.hosts.forward(false));
        std::thread::sleep(Duration::from_secs(5));
        assert!(scene.hosts.forward(true));
        let took = scene.receiver.time_to_picture("a picture after the outage");
        let told = || scene.receiver.seen.outages.load(Ordering::SeqCst);
        wait_for("the outage in the statistics", || told() > outages);
        took
    });
}

#[test]
fn the_receiver_gets_another_address() {
    repeat("moved", |scene| {
        scene.hosts.move_b();
        // What was on its way is shown yet.
        std::thread::sleep(Duration::from_millis(100));
        let took = scene
            .receiver
            .time_to_picture("a picture at the other address");
        took + Duration::from_millis(100)
    });
}

#[test]
fn the_signalling_server_is_restarted_and_the_picture_goes_on() {
    repeat("server", |scene| {
        *scene.receiver.seen.longest_gap.lock().unwrap() = Duration::ZERO;
        let _ = scene.server.child.kill();
        let _ = scene.server.child.wait();
        wait_for("the loss to be seen", || {
            !scene.receiver.is_registered() && !scene.sender.is_registered()
        });
        std::thread::sleep(Duration::from_secs(1));
        scene.server = scene.hosts.run("a", "server");
        let start = Instant::now();
        wait_for("the new server", || {
            scene.receiver.is_registered() && scene.sender.is_registered()
        });
        let took = start.elapsed();
        scene.receiver.time_to_picture("more pictures");
        let gap = *scene.receiver.seen.longest_gap.lock().unwrap();
        assert!(gap < Duration::from_millis(700), "a gap of {gap:?}");
        took
    });
}

#[test]
fn the_sender_is_killed_and_comes_back() {
    repeat("killed", |scene| {
        let _ = scene.sender.child.kill();
        let _ = scene.sender.child.wait();
        std::thread::sleep(Duration::from_secs(1));
        scene.sender = scene.hosts.run("a", "sender");
        scene
            .receiver
            .time_to_picture("a picture of the new sender")
    });
}
