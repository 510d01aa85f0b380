// SPDX-License-Identifier: MPL-2.0
//! What to do about an element that is missing, or about one that is in the
//! way.

use std::path::{Path, PathBuf};

use crate::probes::inventory::Inventory;

/// Whose packages there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packages {
    Debian,
    Fedora,
    Arch,
    Homebrew,
    Unknown,
}

/// A set of plugins that is packaged together, by GStreamer's own names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    Base,
    Good,
    Bad,
    Ugly,
    Libav,
    OpenH264,
    Nice,
}

/// An element, the file of its plugin and the set that this is in.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    pub element: &'static str,
    pub plugin: &'static str,
    pub set: Set,
}

const fn source(element: &'static str, plugin: &'static str, set: Set) -> Source {
    Source {
        element,
        plugin,
        set,
    }
}

pub const SOURCES: [Source; 18] = [
    source("x264enc", "x264", Set::Ugly),
    source("openh264enc", "openh264", Set::OpenH264),
    source("openh264dec", "openh264", Set::OpenH264),
    source("avdec_h264", "libav", Set::Libav),
    source("h264parse", "videoparsersbad", Set::Bad),
    source("webrtcbin", "webrtc", Set::Bad),
    source("nicesrc", "nice", Set::Nice),
    source("dtlssrtpenc", "dtls", Set::Bad),
    source("srtpenc", "srtp", Set::Bad),
    source("rtpbin", "rtpmanager", Set::Good),
    source("rtph264pay", "rtp", Set::Good),
    source("opusenc", "opus", Set::Base),
    source("srtsink", "srt", Set::Bad),
    source("mpegtsmux", "mpegtsmux", Set::Bad),
    source("tsdemux", "mpegtsdemux", Set::Bad),
    source("videoconvert", "videoconvertscale", Set::Base),
    source("audioconvert", "audioconvert", Set::Base),
    source("appsrc", "app", Set::Base),
];

impl Packages {
    pub fn of_this_machine() -> Self {
        if cfg!(target_os = "macos") {
            return Self::Homebrew;
        }
        let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        Self::of_os_release(&text)
    }

    /// By ID and ID_LIKE (os-release(5)).
    fn of_os_release(text: &str) -> Self {
        let ids = ["ID=", "ID_LIKE="].map(|key| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_default().trim_matches(['"', '\''])
        });
        for id in ids.iter().flat_map(|ids| ids.split_whitespace()) {
            match id {
                "debian" | "ubuntu" => return Self::Debian,
                "fedora" | "rhel" => return Self::Fedora,
                "arch" => return Self::Arch,
                _ => {}
            }
        }
        Self::Unknown
    }

    /// What installs `set`; `root`: no sudo is needed.
    pub fn install(self, set: Set, root: bool) -> String {
        let sudo = if root { "" } else { "sudo " };
        match self {
            Self::Debian => format!("{sudo}apt install {}", debian(set)),
            Self::Fedora => format!("{sudo}dnf install {}", fedora(set)),
            Self::Arch => format!("{sudo}pacman -S {}", arch(set)),
            // With all plugins but this one.
            Self::Homebrew if set == Set::Nice => "brew install libnice-gstreamer".into(),
            Self::Homebrew => "brew install gstreamer".into(),
            Self::Unknown => format!("# install {} for GStreamer", upstream(set)),
        }
    }
}

fn debian(set: Set) -> &'static str {
    match set {
        Set::Base => "gstreamer1.0-plugins-base",
        Set::Good => "gstreamer1.0-plugins-good",
        Set::Bad | Set::OpenH264 => "gstreamer1.0-plugins-bad",
        Set::Ugly => "gstreamer1.0-plugins-ugly",
        Set::Libav => "gstreamer1.0-libav",
        Set::Nice => "gstreamer1.0-nice",
    }
}

/// x264 is in RPM Fusion, OpenH264 in fedora-cisco-openh264.
fn fedora(set: Set) -> &'static str {
    match set {
        Set::Base => "gstreamer1-plugins-base",
        Set::Good => "gstreamer1-plugins-good",
        Set::Bad => "gstreamer1-plugins-bad-free gstreamer1-plugins-bad-free-extras",
        Set::Ugly => "gstreamer1-plugins-ugly",
        Set::Libav => "gstreamer1-plugin-libav",
        Set::OpenH264 => "gstreamer1-plugin-openh264",
        Set::Nice => "libnice-gstreamer1",
    }
}

fn arch(set: Set) -> &'static str {
    match set {
        Set::Base => "gst-plugins-base",
        Set::Good => "gst-plugins-good",
        Set::Bad | Set::OpenH264 => "gst-plugins-bad",
        Set::Ugly => "gst-plugins-ugly",
        Set::Libav => "gst-libav",
        Set::Nice => "libnice",
    }
}

fn upstream(set: Set) -> &'static str {
    match set {
        Set::Base => "gst-plugins-base",
        Set::Good => "gst-plugins-good",
        Set::Bad => "gst-plugins-bad",
        Set::Ugly => "gst-plugins-ugly with x264",
        Set::Libav => "gst-libav",
        Set::OpenH264 => "gst-plugins-bad with openh264",
        Set::Nice => "libnice with its plugin",
    }
}

/// What is to be known of the machine for an answer.
#[derive(Clone, Debug)]
pub struct Machine {
    pub packages: Packages,
    pub root: bool,
    /// Variables of the environment that keep plugins from being found, those
    /// that are set.
    pub variables: Vec<String>,
    /// Where GStreamer's plugins are, links followed.
    pub folders: Vec<PathBuf>,
}

/// They replace what GStreamer would find by itself.
const VARIABLES: [&str; 4] = [
    "GST_PLUGIN_SYSTEM_PATH_1_0",
    "GST_PLUGIN_SYSTEM_PATH",
    "GST_REGISTRY_1_0",
    "GST_REGISTRY",
];
pub const RANKS: &str = "GST_PLUGIN_FEATURE_RANK";

impl Machine {
    pub fn this(inventory: &Inventory) -> Self {
        let set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let mut folders: Vec<PathBuf> = inventory
            .plugins
            .iter()
            .filter_map(|plugin| plugin.file.as_ref()?.canonicalize().ok())
            .filter_map(|file| Some(file.parent()?.to_path_buf()))
            .collect();
        folders.sort();
        folders.dedup();
        Self {
            packages: Packages::of_this_machine(),
            root: is_root(),
            variables: VARIABLES
                .iter()
                .filter(|v| set(v))
                .map(|v| (*v).into())
                .collect(),
            folders,
        }
    }

    /// Why an element is missing and what brings it back, the likeliest
    /// command first.
    pub fn missing(&self, source: &Source) -> (String, Vec<String>) {
        let install = self.packages.install(source.set, self.root);
        let Some(file) = self.on_disk(source.plugin) else {
            let why = format!("GStreamer's plugin {} is not installed", source.plugin);
            return (why, vec![install]);
        };
        let why = format!(
            "{} is there, but GStreamer does not load it",
            file.display()
        );
        let mut commands: Vec<String> = self
            .variables
            .iter()
            .map(|variable| format!("unset {variable}"))
            .collect();
        if commands.is_empty() {
            // It was put on the black list, or a library that it needs is
            // missing; the second command says which.
            commands.push("rm -f ~/.cache/gstreamer-1.0/registry.*.bin".into());
            commands.push(format!("gst-inspect-1.0 {}", file.display()));
        }
        commands.push(install);
        (why, commands)
    }

    fn on_disk(&self, plugin: &str) -> Option<PathBuf> {
        let suffix = std::env::consts::DLL_SUFFIX;
        self.folders
            .iter()
            .map(|folder| folder.join(format!("libgst{plugin}{suffix}")))
            .find(|file| file.exists())
    }
}

/// Own files have no owner but root in a process that runs as root.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    Path::new("/proc/self")
        .metadata()
        .is_ok_and(|meta| meta.uid() == 0)
}

pub fn source_of(element: &str) -> Option<&'static Source> {
    SOURCES.iter().find(|source| source.element == element)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_known_by_their_own_name_and_by_what_they_are_like() {
        for (text, packages) in [
            ("NAME=x\nID=debian\n", Packages::Debian),
            (
                "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n",
                Packages::Debian,
            ),
            ("ID=fedora", Packages::Fedora),
            (
                "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"",
                Packages::Fedora,
            ),
            ("ID=manjaro\nID_LIKE=arch\n", Packages::Arch),
            ("ID=nixos\n", Packages::Unknown),
            ("", Packages::Unknown),
        ] {
            assert_eq!(Packages::of_os_release(text), packages, "{text}");
        }
    }

    fn machine(folder: Option<&Path>, variables: &[&str]) -> Machine {
        Machine {
            packages: Packages::Debian,
            root: false,
            variables: variables.iter().map(|v| (*v).into()).collect(),
            folders: folder.map(Path::to_path_buf).into_iter().collect(),
        }
    }

    #[test]
    fn what_is_not_there_is_installed() {
        let source = source_of("x264enc").unwrap();
        let (why, commands) = machine(None, &["GST_REGISTRY"]).missing(source);
        assert!(why.contains("not installed"), "{why}");
        assert_eq!(commands, ["sudo apt install gstreamer1.0-plugins-ugly"]);
        let mut root = machine(None, &[]);
        root.root = true;
        assert_eq!(
            root.missing(source_of("nicesrc").unwrap()).1,
            ["apt install gstreamer1.0-nice"]
        );
    }

    #[test]
    fn what_is_there_and_not_loaded_is_made_to_load_first() {
        let folder = std::env::temp_dir().join(format!("doctor-advice-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join(format!("libgstx264{}", std::env::consts::DLL_SUFFIX));
        std::fs::write(&file, b"").unwrap();
        let source = source_of("x264enc").unwrap();
        let (_, commands) = machine(Some(&folder), &["GST_PLUGIN_SYSTEM_PATH"]).missing(source);
        assert_eq!(commands[0], "unset GST_PLUGIN_SYSTEM_PATH");
        let (why, commands) = machine(Some(&folder), &[]).missing(source);
        assert!(why.contains("does not load"), "{why}");
        assert!(commands[0].starts_with("rm -f"), "{commands:?}");
        let install = "sudo apt install gstreamer1.0-plugins-ugly";
        assert_eq!(commands.last().unwrap(), install);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn every_system_has_a_command_for_every_element() {
        use Packages::{Arch, Debian, Fedora, Homebrew, Unknown};
        for packages in [Debian, Fedora, Arch, Homebrew, Unknown] {
            for source in &SOURCES {
                let command = packages.install(source.set, false);
                assert!(command.split_whitespace().count() >= 3, "{command}");
            }
        }
    }
}
