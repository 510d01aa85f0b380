// SPDX-License-Identifier: MPL-2.0
//! Runs the probes one after the other, so that none disturbs the times of
//! another, and draws the conclusions.

use std::path::PathBuf;

use anyhow::{Context, Result};
use gstdualstream::encoders;

use crate::advice::{Machine, RANKS, source_of};
use crate::child::{self, Fault};
use crate::probes::inventory::{Factory, Inventory};
use crate::probes::{OWN, Task, call, decoder, encoder, opus, session, srt, srtp};
use crate::report::{
    Call, Decoder, Encoder, Judged, Part, Plugin, Problem, Report, Run, Word, state_of,
};

const SIZES: [(u32, u32); 2] = [(1280, 720), (1920, 1080)];

/// How thorough it is.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Frames of each encoder and decoder at each size.
    pub frames: u32,
    pub sizes: usize,
    /// 0: no call.
    pub call_seconds: u32,
}

impl Extent {
    pub const FULL: Self = Self {
        frames: 120,
        sizes: 2,
        call_seconds: 10,
    };
    pub const QUICK: Self = Self {
        frames: 30,
        sizes: 1,
        call_seconds: 3,
    };
}

pub struct Examination {
    program: PathBuf,
    /// For streams of encoders; removed at the end.
    folder: PathBuf,
    extent: Extent,
    /// Says what is under way.
    progress: fn(&str),
    problems: Vec<Problem>,
}

impl Drop for Examination {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Examination {
    pub fn new(extent: Extent, progress: fn(&str)) -> Result<Self> {
        let program = std::env::current_exe().context("where is this program?")?;
        let folder = std::env::temp_dir().join(format!("dualstream-doctor-{}", std::process::id()));
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot write to {}", folder.display()))?;
        Ok(Self {
            program,
            folder,
            extent,
            progress,
            problems: Vec::new(),
        })
    }

    fn probe<T: serde::de::DeserializeOwned>(&self, what: &str, task: &Task) -> Result<T, Fault> {
        (self.progress)(what);
        child::run(&self.program, task, task.limit())
    }

    pub fn run(mut self) -> Report {
        let inventory: Inventory = match self.probe("plugins", &Task::Inventory) {
            Ok(inventory) => inventory,
            Err(fault) => return self.without_gstreamer(&fault),
        };
        let machine = Machine::this(&inventory);
        let plugins = self.plugins(&inventory);
        self.missing_elements(&inventory, &machine);
        let parts = self.parts(&inventory);
        let encoders = self.encoders(&inventory);
        let decoders = self.decoders(&inventory, &encoders);
        self.conclude(&encoders, &decoders, &machine);
        let call = self.call(&encoders);
        Report {
            version: env!("CARGO_PKG_VERSION"),
            gstreamer: Some(inventory.gstreamer.clone()),
            healthy: !self.problems.iter().any(|problem| problem.needed),
            encoders_not_here: encoders::all()
                .iter()
                .map(|family| family.factory)
                .filter(|name| !inventory.has_element(name))
                .collect(),
            encoders,
            decoders,
            parts,
            call,
            plugins,
            problems: std::mem::take(&mut self.problems),
        }
    }

    fn without_gstreamer(mut self, fault: &Fault) -> Report {
        self.problem(
            "GStreamer",
            fault.to_string(),
            true,
            &[
                "rm -f ~/.cache/gstreamer-1.0/registry.*.bin",
                "gst-inspect-1.0",
            ],
        );
        Report {
            version: env!("CARGO_PKG_VERSION"),
            gstreamer: None,
            healthy: false,
            encoders: Vec::new(),
            decoders: Vec::new(),
            encoders_not_here: Vec::new(),
            parts: Vec::new(),
            call: None,
            plugins: Vec::new(),
            problems: std::mem::take(&mut self.problems),
        }
    }

    fn problem(&mut self, what: &str, why: impl Into<String>, needed: bool, commands: &[&str]) {
        self.problems.push(Problem {
            what: what.into(),
            why: why.into(),
            needed,
            commands: commands.iter().map(|c| (*c).to_owned()).collect(),
        });
    }

    /// This project's, and those that it is built upon.
    fn plugins(&mut self, inventory: &Inventory) -> Vec<Plugin> {
        let names = OWN.iter().map(|(name, _)| (*name, true));
        let others = crate::advice::SOURCES.iter().map(|s| (s.plugin, false));
        let mut plugins: Vec<Plugin> = Vec::new();
        for (name, own) in names.chain(others) {
            let found = inventory.plugin(name);
            if plugins.iter().any(|p| p.name == name) || (found.is_none() && !own) {
                continue;
            }
            plugins.push(Plugin {
                name: name.into(),
                version: found.map(|p| p.version.clone()),
                file: found.and_then(|p| p.file.clone()),
                own,
                built_in: own && found.is_none(),
            });
        }
        if plugins.iter().any(|plugin| plugin.built_in) {
            let (why, commands) = self.how_to_install();
            let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
            self.problem("plugins of this project", why, false, &commands);
        }
        plugins
    }

    fn how_to_install(&self) -> (String, Vec<String>) {
        let why = "GStreamer does not find them; the copies inside the doctor were tested";
        let beside = self.program.parent().filter(|folder| {
            let name = format!("libgstdualstream{}", std::env::consts::DLL_SUFFIX);
            folder.join(name).exists()
        });
        let commands = match beside {
            Some(folder) => vec![format!("export GST_PLUGIN_PATH={}", folder.display())],
            None => {
                vec!["meson setup build && ninja -C build && sudo ninja -C build install".into()]
            }
        };
        (why.into(), commands)
    }

    /// Encoders and decoders may be others; `conclude` sees whether any works.
    fn missing_elements(&mut self, inventory: &Inventory, machine: &Machine) {
        for source in &crate::advice::SOURCES {
            if inventory.has_element(source.element) {
                continue;
            }
            let optional = [
                "x264enc",
                "openh264enc",
                "openh264dec",
                "avdec_h264",
                "srtsink",
                "mpegtsmux",
                "tsdemux",
            ];
            let (why, commands) = machine.missing(source);
            let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
            let needed = !optional.contains(&source.element);
            self.problem(source.element, why, needed, &commands);
        }
    }

    fn parts(&mut self, inventory: &Inventory) -> Vec<Part> {
        let mut parts = Vec::new();
        let has = |elements: &[&str]| elements.iter().all(|e| inventory.has_element(e));
        parts.extend(self.session_parts(inventory, has(&["webrtcbin", "nicesrc", "opusenc"])));
        let srtp = has(&["srtpenc"]).then(|| self.probe::<srtp::Outcome>("SRTP", &Task::Srtp));
        parts.push(self.part(inventory, "SRTP", "srtpenc", srtp, |o| {
            format!("{} packets encrypted and decrypted", o.packets)
        }));
        let opus = has(&["opusenc"]).then(|| self.probe::<opus::Outcome>("Opus", &Task::Opus));
        parts.push(self.part(inventory, "Opus", "opusenc", opus, |o| {
            let kbps = o.bitrate_bps / 1000;
            format!("10 ms frames at {kbps} kbit/s, a tone comes back")
        }));
        let srt = has(&["srtsink"]).then(|| self.probe::<srt::Outcome>("SRT", &Task::Srt));
        parts.push(self.part(inventory, "SRT", "srtsink", srt, |o| {
            format!(
                "{} packets over loopback, the first after {:.0} ms",
                o.packets, o.connected_ms
            )
        }));
        parts
    }

    /// One call of two webrtcbins shows three things.
    fn session_parts(&mut self, inventory: &Inventory, possible: bool) -> Vec<Part> {
        let task = Task::Session;
        let result = possible.then(|| self.probe::<session::Outcome>("webrtcbin", &task));
        let of = |what: fn(&session::Outcome) -> Result<String, String>| match &result {
            None => None,
            Some(Err(fault)) => Some(Err(fault.clone())),
            Some(Ok(outcome)) => Some(what(outcome).map_err(Fault::Failed)),
        };
        let webrtc = of(|o| match o.connected_ms {
            Some(ms) => Ok(format!(
                "Opus arrives {ms:.0} ms after the start of both sides"
            )),
            None => Err("no packet arrives over loopback".into()),
        });
        let ice = of(|o| match o.ice {
            true => Ok("ICE finds a path over loopback".into()),
            false => Err("ICE finds no path over loopback".into()),
        });
        let dtls = of(|o| match o.dtls {
            true => Ok("keys agreed upon".into()),
            false => Err("no keys are agreed upon".into()),
        });
        let text = |text: &String| text.clone();
        vec![
            self.part(inventory, "webrtcbin", "webrtcbin", webrtc, text),
            self.part(inventory, "nice", "nicesrc", ice, text),
            self.part(inventory, "DTLS", "dtlssrtpenc", dtls, text),
        ]
    }

    /// `None`: it was not run, because an element is missing.
    fn part<T>(
        &mut self,
        inventory: &Inventory,
        name: &'static str,
        element: &str,
        result: Option<Result<T, Fault>>,
        detail: impl Fn(&T) -> String,
    ) -> Part {
        let needed = name != "SRT";
        let source = source_of(element);
        let plugin = source.and_then(|source| inventory.plugin(source.plugin));
        let (state, detail) = match &result {
            _ if !inventory.has_element(element) => (Word::Missing, "not found".into()),
            None => (
                Word::Untested,
                "something else that it needs is missing".into(),
            ),
            Some(Ok(outcome)) => (Word::Ok, detail(outcome)),
            Some(Err(fault)) => (Word::Broken, fault.to_string()),
        };
        if state == Word::Broken {
            let command = format!("GST_DEBUG=3 dualstream-doctor probe '{}'", task_of(name));
            self.problem(name, detail.clone(), needed, &[&command]);
        }
        Part {
            name,
            state,
            needed,
            plugin: plugin.map(|p| p.name.clone()),
            version: plugin.map(|p| p.version.clone()),
            detail,
        }
    }

    fn sizes(&self) -> &'static [(u32, u32)] {
        &SIZES[..self.extent.sizes.min(SIZES.len())]
    }

    fn stream(&self, factory: &str, height: u32) -> PathBuf {
        self.folder.join(format!("{factory}-{height}.h264"))
    }

    fn encoders(&mut self, inventory: &Inventory) -> Vec<Encoder> {
        let all = inventory.encoders.iter();
        all.map(|factory| self.encoder(factory)).collect()
    }

    fn encoder(&self, factory: &Factory) -> Encoder {
        let name = &factory.factory;
        let driven = encoders::by_factory(name).is_some();
        let mut runs = Vec::new();
        for (n, &(width, height)) in self.sizes().iter().enumerate() {
            let task = Task::Encoder(encoder::Task {
                factory: name.clone(),
                width,
                height,
                frames: self.extent.frames,
                controls: n == 0,
                keep: Some(self.stream(name, height)),
            });
            let result = self.probe(&format!("{name} {width}x{height}"), &task);
            // Without our settings B frames are no fault.
            let fault = |o: &encoder::Outcome| if driven { o.fault() } else { None };
            let run = Run::new((width, height), result, fault);
            let dead = run.outcome.is_none();
            runs.push(run);
            // It would cost the time limit once more.
            if dead {
                break;
            }
        }
        Encoder {
            factory: factory.clone(),
            state: state_of(&runs),
            driven,
            runs,
        }
    }

    fn decoders(&mut self, inventory: &Inventory, encoders: &[Encoder]) -> Vec<Decoder> {
        let all = inventory.decoders.iter();
        all.map(|factory| self.decoder(factory, encoders)).collect()
    }

    fn decoder(&self, factory: &Factory, encoders: &[Encoder]) -> Decoder {
        let name = &factory.factory;
        let by = encoders.iter().find(|e| e.driven && e.state.works());
        let mut runs = Vec::new();
        for &(width, height) in self.sizes() {
            let Some(by) = by else { break };
            let stream = self.stream(&by.factory.factory, height);
            if !stream.exists() {
                continue;
            }
            let task = Task::Decoder(decoder::Task {
                factory: name.clone(),
                width,
                height,
                frames: self.extent.frames,
                stream,
            });
            let result = self.probe(&format!("{name} {width}x{height}"), &task);
            let run: Run<decoder::Outcome> = Run::new((width, height), result, Judged::fault);
            let dead = run.outcome.is_none();
            runs.push(run);
            if dead {
                break;
            }
        }
        Decoder {
            factory: factory.clone(),
            state: state_of(&runs),
            stream_of: by.map(|e| e.factory.factory.clone()),
            runs,
        }
    }

    fn conclude(&mut self, encoders: &[Encoder], decoders: &[Decoder], machine: &Machine) {
        for encoder in encoders.iter().filter(|e| e.driven) {
            self.about(&encoder.factory, encoder.state, &encoder.runs);
        }
        for decoder in decoders {
            self.about(&decoder.factory, decoder.state, &decoder.runs);
        }
        let install = |element: &str| {
            source_of(element).map_or_else(Vec::new, |source| machine.missing(source).1)
        };
        if !encoders.iter().any(Encoder::usable) {
            let commands = install("x264enc");
            let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
            self.problem("H.264 encoder", "none works", true, &commands);
        }
        let tested = decoders.iter().any(|d| d.state != Word::Untested);
        if decoders.is_empty() || (tested && !decoders.iter().any(|d| d.state.works())) {
            let commands = install("avdec_h264");
            let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
            self.problem("H.264 decoder", "none works", true, &commands);
        }
    }

    /// One that does not work, or is not chosen. Another one may take its
    /// place, so it is not needed.
    fn about<T>(&mut self, factory: &Factory, state: Word, runs: &[Run<T>]) {
        let name = &factory.factory;
        if state == Word::Broken {
            let why = runs.iter().find_map(|run| run.error.clone());
            let command = format!("export {RANKS}={name}:NONE   # to pass it by");
            self.problem(name, why.unwrap_or_default(), false, &[&command]);
        } else if factory.rank <= 0 && std::env::var_os(RANKS).is_some() {
            let why = "its rank is none, so it is never chosen by itself";
            self.problem(name, why, false, &[&format!("unset {RANKS}")]);
        }
    }

    fn call(&mut self, encoders: &[Encoder]) -> Option<Call> {
        let works = |name: &str| {
            let found = encoders.iter().find(|e| e.factory.factory == name);
            found.is_some_and(Encoder::usable)
        };
        let seconds = self.extent.call_seconds;
        if seconds == 0 || self.problems.iter().any(|problem| problem.needed) {
            return None;
        }
        let encoder = if works("x264enc") { "x264enc" } else { "auto" };
        let task = Task::Call(call::Task {
            seconds,
            encoder: encoder.into(),
        });
        let call = Call::new(self.probe::<call::Outcome>("a call over loopback", &task));
        if let Some(why) = &call.error {
            let command = "GST_DEBUG=3,dualwebrtc*:6 dualstream-doctor --quick";
            self.problem("call over loopback", why.clone(), true, &[command]);
        }
        Some(call)
    }
}

/// How to run it alone.
fn task_of(part: &str) -> String {
    let task = match part {
        "SRTP" => Task::Srtp,
        "Opus" => Task::Opus,
        "SRT" => Task::Srt,
        _ => Task::Session,
    };
    serde_json::to_string(&task).unwrap_or_default()
}
