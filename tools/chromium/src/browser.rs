// SPDX-License-Identifier: MPL-2.0
//! Headless Chromium with our page in it.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;

use crate::http::PageServer;
use crate::link::Link;

const PAGE: &str = include_str!("page.html");
/// Where FlexFEC is still behind a trial: to offer and answer it, and to send
/// it.
pub(crate) const FLEXFEC_TRIALS: &str =
    "WebRTC-FlexFEC-03-Advertised/Enabled/WebRTC-FlexFEC-03/Enabled/";
/// What a headless browser is started with, in all its uses here.
pub const FLAGS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-component-update",
    "--disable-sync",
    // Addresses as they are: nobody resolves mDNS names here.
    "--disable-features=WebRtcHideLocalIpsWithMdns",
    "--autoplay-policy=no-user-gesture-required",
];
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Which end of the stream the page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Receive,
    Send,
}

#[derive(Clone, Debug)]
pub struct SetUp {
    pub role: Role,
    /// Port of the signalling server on this machine.
    pub signalling: u16,
    /// FlexFEC is switched on in the browser.
    pub flexfec: bool,
    /// Lost packets are asked for again.
    pub nack: bool,
    /// Of a page that sends, at most.
    pub kbps: u32,
    pub link: Link,
}

/// One RTP stream as `getStats()` has it. Fields are named as there.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stream {
    #[serde(rename = "type")]
    pub kind: String,
    pub ssrc: u32,
    pub packets_received: u64,
    pub packets_lost: i64,
    pub fec_packets_received: u64,
    pub fec_packets_discarded: u64,
    pub frames_decoded: u64,
    pub frames_received: u64,
    pub freeze_count: u64,
    pub total_freezes_duration: f64,
    pub nack_count: u64,
    pub pli_count: u64,
    pub retransmitted_packets_received: u64,
    pub packets_sent: u64,
    pub frames_encoded: u64,
    pub retransmitted_packets_sent: u64,
    pub fraction_lost: f64,
    pub round_trip_time: f64,
}

/// What the page has said so far.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Report {
    pub streams: Option<Vec<Stream>>,
    pub error: Option<String>,
    pub connection: Option<String>,
    /// Descriptions, of the page and of its peer.
    pub local: Option<String>,
    pub remote: Option<String>,
}

impl Report {
    fn take(&mut self, newer: Self) {
        fn replace<T>(old: &mut Option<T>, new: Option<T>) {
            if new.is_some() {
                *old = new;
            }
        }
        replace(&mut self.streams, newer.streams);
        replace(&mut self.connection, newer.connection);
        replace(&mut self.local, newer.local);
        replace(&mut self.remote, newer.remote);
        // The first error explains the others.
        if self.error.is_none() {
            self.error = newer.error;
        }
    }

    /// The video that comes in with most packets: the second stream of a dual
    /// one is silent to a browser.
    pub fn inbound(&self) -> Option<&Stream> {
        self.of_kind("inbound-rtp")
            .max_by_key(|stream| stream.packets_received)
    }

    pub fn outbound(&self) -> Option<&Stream> {
        self.of_kind("outbound-rtp")
            .max_by_key(|stream| stream.packets_sent)
    }

    /// What the receiver told the page.
    pub fn remote_inbound(&self) -> Option<&Stream> {
        self.of_kind("remote-inbound-rtp").next()
    }

    fn of_kind(&self, kind: &'static str) -> impl Iterator<Item = &Stream> {
        self.streams
            .iter()
            .flatten()
            .filter(move |stream| stream.kind == kind)
    }
}

/// The program, if it is installed.
pub fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    ["chromium", "chromium-browser", "google-chrome"]
        .iter()
        .find_map(|name| {
            std::env::split_paths(&path)
                .map(|folder| folder.join(name))
                .find(|program| program.is_file())
        })
}

/// Runs until it is dropped.
pub struct Browser {
    process: Child,
    profile: PathBuf,
    report: Arc<Mutex<Report>>,
    _server: PageServer,
}

impl SetUp {
    /// For the page.
    fn query(&self) -> String {
        let role = match self.role {
            Role::Receive => "receive",
            Role::Send => "send",
        };
        format!(
            "role={role}&signalling={}&nack={}&kbps={}",
            self.signalling,
            u8::from(self.nack),
            self.kbps
        )
    }
}

impl Browser {
    pub fn start(set_up: &SetUp) -> Result<Self> {
        Self::with_page(set_up, PAGE, |_| ())
    }

    /// With another page, whose reports go to `hears`, too.
    pub fn with_page(
        set_up: &SetUp,
        page: &'static str,
        hears: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Self> {
        let (query, link) = (set_up.query(), &set_up.link);
        Self::open_heard(page, &query, set_up.flexfec, link, hears)
    }

    /// With another page, which reports as ours does.
    pub fn open(page: &'static str, query: &str, flexfec: bool, link: &Link) -> Result<Self> {
        Self::open_heard(page, query, flexfec, link, |_| ())
    }

    fn open_heard(
        page: &'static str,
        query: &str,
        flexfec: bool,
        link: &Link,
        hears: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let program = find().context("Chromium is not installed")?;
        let report = Arc::new(Mutex::new(Report::default()));
        let takes = report.clone();
        let server = PageServer::start(link.host(), page, move |text| {
            hears(text);
            if let Ok(newer) = serde_json::from_str(text) {
                takes.lock().expect("nobody panics with it").take(newer);
            }
        })?;
        let profile = std::env::temp_dir().join(format!(
            "dualstream-chromium-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        ));
        std::fs::create_dir_all(&profile)?;
        let mut arguments: Vec<String> = FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
        if flexfec {
            arguments.push(format!("--force-fieldtrials={FLEXFEC_TRIALS}"));
        }
        arguments.push(format!("--user-data-dir={}", profile.display()));
        let process = link
            .command(&program, &arguments, server.port(), query)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // With all its processes, at the end.
            .process_group(0)
            .spawn()
            .context("Chromium does not start")?;
        Ok(Self {
            process,
            profile,
            report,
            _server: server,
        })
    }

    pub fn report(&self) -> Report {
        self.report.lock().expect("nobody panics with it").clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        stop(&mut self.process);
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

/// Ends a process that leads its group, and the group.
pub(crate) fn stop(process: &mut Child) {
    let group = Pid::from_raw(process.id() as i32);
    // At SIGINT rattan takes its namespaces away.
    for (signal, patience) in [
        (Signal::SIGINT, STOP_TIMEOUT),
        (Signal::SIGKILL, KILL_TIMEOUT),
    ] {
        // Fails when all of it is gone.
        let _ = killpg(group, signal);
        if ends(process, patience) {
            break;
        }
    }
}

fn ends(process: &mut Child, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    while !matches!(process.try_wait(), Ok(Some(_))) {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_add_up_and_the_first_error_stays() {
        let mut report = Report::default();
        for text in [
            r#"{"connection":"connected"}"#,
            r#"{"streams":[{"type":"inbound-rtp","ssrc":1,"packetsReceived":5},
                {"type":"inbound-rtp","ssrc":2,"packetsReceived":70,"packetsLost":-1,
                 "fecPacketsReceived":3,"totalFreezesDuration":0.5,"unknown":[]},
                {"type":"outbound-rtp","ssrc":3,"packetsSent":9}]}"#,
            r#"{"error":"one"}"#,
            r#"{"error":"two"}"#,
        ] {
            report.take(serde_json::from_str(text).unwrap());
        }
        assert_eq!(report.connection.as_deref(), Some("connected"));
        assert_eq!(report.error.as_deref(), Some("one"));
        let inbound = report.inbound().unwrap();
        assert_eq!((inbound.ssrc, inbound.fec_packets_received), (2, 3));
        assert_eq!(inbound.packets_lost, -1);
        assert_eq!(report.outbound().unwrap().packets_sent, 9);
        assert_eq!(report.remote_inbound(), None);
    }
}
