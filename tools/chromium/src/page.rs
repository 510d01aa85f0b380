// SPDX-License-Identifier: MPL-2.0
//! The page that dualwebrtcsink and dualwebrtcsrc serve, in headless Chromium,
//! with a pipeline at the other end.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dualstream_common::Ratio;
use gst::prelude::*;
use serde_json::Value;

use crate::browser::{self, FLAGS, FLEXFEC_TRIALS};
use crate::devtools::{Devtools, Pipes};
use crate::link::Link;
use crate::session::{Direction, Pipeline, drop_packets, init};

/// From the start to what is waited for.
const PATIENCE: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(50);
/// A test has a camera and sound, and nobody to ask for leave.
const PAGE_FLAGS: [&str; 5] = [
    "--remote-debugging-pipe",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--window-size=1200,1100",
    "--hide-scrollbars",
];

/// Chromium with one page under remote control, until it is dropped.
pub struct Page {
    process: Child,
    profile: PathBuf,
    devtools: Devtools,
}

impl Page {
    /// Opens the web server's page at `port` with this query.
    pub fn open(port: u16, query: &str, flexfec: bool, link: &Link) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let program = browser::find().context("Chromium is not installed")?;
        let profile = std::env::temp_dir().join(format!(
            "dualstream-page-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        ));
        std::fs::create_dir_all(&profile)?;
        let pipes = Pipes::create(&profile)?;
        let devtools = pipes.open()?;
        let mut arguments = vec![
            "-c".to_owned(),
            pipes.wrapper(),
            "sh".to_owned(),
            program.display().to_string(),
        ];
        arguments.extend(FLAGS.iter().chain(&PAGE_FLAGS).map(|&flag| flag.to_owned()));
        if flexfec {
            arguments.push(format!("--force-fieldtrials={FLEXFEC_TRIALS}"));
        }
        arguments.push(format!("--user-data-dir={}", profile.display()));
        let process = link
            .command(Path::new("sh"), &arguments, port, query)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // With all its processes, at the end.
            .process_group(0)
            .spawn()
            .context("Chromium does not start")?;
        let page = Self {
            process,
            profile,
            devtools,
        };
        page.devtools.attach()?;
        Ok(page)
    }

    pub fn devtools(&self) -> &Devtools {
        &self.devtools
    }

    /// What the page says of itself.
    pub fn report(&self) -> Result<Value> {
        self.devtools
            .evaluate("window.dualstream ? window.dualstream.report() : null")
    }

    pub fn click(&self, id: &str) -> Result<()> {
        self.devtools
            .evaluate(&format!("document.getElementById('{id}').click()"))
            .map(drop)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        browser::stop(&mut self.process);
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

/// What is at the two ends.
#[derive(Clone, Debug)]
pub struct SetUp {
    /// For gst-launch, with one of our elements, named `peer`; the servers are
    /// added to it.
    pub pipeline: String,
    pub direction: Direction,
    pub flexfec: bool,
    /// Packets that our own element loses.
    pub drops: Ratio,
    pub link: Link,
    pub query: String,
}

impl SetUp {
    pub fn new(direction: Direction, pipeline: &str) -> Self {
        Self {
            pipeline: pipeline.into(),
            direction,
            flexfec: false,
            drops: Ratio::ZERO,
            link: Link::Direct,
            query: "autostart=1".into(),
        }
    }
}

/// A pipeline and a page, until it is dropped.
pub struct Session {
    // The page goes first, as a person would close it.
    pub page: Page,
    pipeline: Pipeline,
}

impl Session {
    pub fn start(set_up: &SetUp) -> Result<Self> {
        init();
        let pipeline = gst::parse::launch(&set_up.pipeline)?
            .downcast()
            .map_err(|_| anyhow::anyhow!("not a pipeline"))?;
        let pipeline = Pipeline(pipeline);
        let peer = pipeline.element()?;
        let host = set_up.link.host();
        for server in ["signalling", "web"] {
            peer.set_property(&format!("run-{server}-server"), true);
            peer.set_property(&format!("{server}-server-host"), host);
            peer.set_property(&format!("{server}-server-port"), 0u32);
        }
        drop_packets(&peer, set_up.direction, set_up.drops);
        pipeline.0.set_state(gst::State::Playing)?;
        let url: String = peer
            .property::<gst::Structure>("stats")
            .get("web-server")
            .context("no web server")?;
        let port = url
            .trim_end_matches('/')
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .with_context(|| format!("no port in {url}"))?;
        let page = Page::open(port, &set_up.query, set_up.flexfec, &set_up.link)?;
        Ok(Self { page, pipeline })
    }

    pub fn element(&self, name: &str) -> Result<gst::Element> {
        self.pipeline
            .0
            .by_name(name)
            .with_context(|| format!("no element {name}"))
    }

    /// Of our element.
    pub fn stats(&self) -> Result<gst::Structure> {
        self.pipeline.stats()
    }

    /// Until the page says so.
    pub fn wait(&self, what: &str, mut done: impl FnMut(&Value) -> bool) -> Result<Value> {
        let end = Instant::now() + PATIENCE;
        loop {
            self.pipeline.check()?;
            let report = self.page.report()?;
            if done(&report) {
                return Ok(report);
            }
            if Instant::now() > end {
                bail!(
                    "in vain: {what}: {report}, {}, {:?}",
                    self.stats()?,
                    self.page.devtools().complaints()
                );
            }
            std::thread::sleep(POLL);
        }
    }

    pub fn sleep(&self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            self.pipeline.check()?;
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}
