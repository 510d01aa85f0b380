// SPDX-License-Identifier: MPL-2.0
//! Debian's Janus, an SFU, with a configuration of its own.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The page of a viewer: `port` and `room` in its query.
pub const PAGE: &str = include_str!("janus.html");
pub const ROOM: u64 = 1234;
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the plugins are, if it is installed with what we need.
fn plugins() -> Option<PathBuf> {
    if !Path::new("/usr/bin/janus").is_file() {
        return None;
    }
    std::fs::read_dir("/usr/lib")
        .ok()?
        .flatten()
        .map(|folder| folder.path().join("janus"))
        .find(|folder| {
            folder.join("plugins/libjanus_videoroom.so").exists()
                && folder.join("transports/libjanus_websockets.so").exists()
        })
}

pub fn is_installed() -> bool {
    plugins().is_some()
}

/// Runs until it is dropped.
pub struct Janus {
    process: Child,
    folder: PathBuf,
    port: u16,
}

impl Janus {
    pub fn start() -> Result<Self> {
        Self::start_at(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
    }

    /// With its WebSockets at this port.
    pub fn start_at(port: u16) -> Result<Self> {
        let plugins = plugins().context("Janus is not installed")?;
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let folder = std::env::temp_dir().join(format!(
            "dualstream-janus-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        ));
        configure(&folder, &plugins, port)?;
        let log = std::fs::File::create(folder.join("log"))?;
        let process = Command::new("/usr/bin/janus")
            .arg("-F")
            .arg(&folder)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .context("Janus does not start")?;
        let mut janus = Self {
            process,
            folder,
            port,
        };
        let end = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > end || matches!(janus.process.try_wait(), Ok(Some(_))) {
                bail!("Janus does not listen: {}", janus.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(janus)
    }

    /// Of its WebSockets.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Janus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn configure(folder: &Path, plugins: &Path, port: u16) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    // All but one: what is not named is loaded.
    let others = |kind: &str, wanted: &str| -> io::Result<String> {
        let mut names: Vec<String> = std::fs::read_dir(plugins.join(kind))?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.ends_with(".so") && name != wanted)
            .collect();
        names.sort();
        Ok(names.join(","))
    };
    let write = |name: &str, text: String| {
        std::fs::File::create(folder.join(name))?.write_all(text.as_bytes())
    };
    write(
        "janus.jcfg",
        format!(
            "general: {{\n configs_folder = \"{}\"\n plugins_folder = \"{1}/plugins\"\n \
             transports_folder = \"{1}/transports\"\n debug_level = 4\n debug_colors = false\n}}\n\
             plugins: {{ disable = \"{2}\" }}\ntransports: {{ disable = \"{3}\" }}\n",
            folder.display(),
            plugins.display(),
            others("plugins", "libjanus_videoroom.so")?,
            others("transports", "libjanus_websockets.so")?,
        ),
    )?;
    write(
        "janus.transport.websockets.jcfg",
        format!("general: {{\n ws = true\n ws_port = {port}\n ws_ip = \"127.0.0.1\"\n}}\n"),
    )?;
    write(
        "janus.plugin.videoroom.jcfg",
        format!(
            "room-{ROOM}: {{\n description = \"test\"\n publishers = 2\n bitrate = 0\n \
             videocodec = \"h264\"\n audiocodec = \"opus\"\n transport_wide_cc_ext = true\n}}\n"
        ),
    )
}
