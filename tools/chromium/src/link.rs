// SPDX-License-Identifier: MPL-2.0
//! What lies between the browser and this process.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dualstream_common::Ratio;

/// In both directions the same.
#[derive(Clone, Debug, PartialEq)]
pub enum Link {
    /// Loopback.
    Direct,
    /// The browser in a network namespace behind this, by `rattan`.
    Emulated {
        kbps: u32,
        delay: Duration,
        /// Of the direction that media takes; nothing else is lost.
        loss: Ratio,
        /// The browser sends media.
        up: bool,
    },
}

pub use dualstream_link::find_rattan;

impl Link {
    /// What servers must listen on to be reached from the browser.
    pub fn host(&self) -> &'static str {
        match self {
            Self::Direct => "127.0.0.1",
            Self::Emulated { .. } => "0.0.0.0",
        }
    }

    /// The browser at its end of the link, with the page of the server at
    /// `port` here.
    pub fn command(&self, program: &Path, arguments: &[String], port: u16, query: &str) -> Command {
        match self {
            Self::Direct => {
                let mut command = Command::new(program);
                command
                    .args(arguments)
                    .arg(format!("http://{}:{port}/?{query}", self.host()));
                command
            }
            Self::Emulated {
                kbps,
                delay,
                loss,
                up,
            } => {
                let mut command = Command::new(find_rattan().unwrap_or_else(|| "rattan".into()));
                // Its warnings about newer kernels are of no use here.
                command.env("RUST_LOG", "error").arg("link");
                for (side, loses) in [("uplink", *up), ("downlink", !*up)] {
                    let option = |name: &str| format!("--{side}-{name}");
                    command
                        .arg(option("bandwidth"))
                        .arg(format!("{kbps}Kbps"))
                        .arg(option("delay"))
                        .arg(format!("{}ms", delay.as_millis()));
                    if loses {
                        command.arg(option("loss")).arg(loss.value().to_string());
                    }
                }
                // Only in there it is known where here is.
                command
                    .args(["--", "sh", "-c"])
                    .arg(format!(
                        "exec \"$0\" \"$@\" \"http://$RATTAN_BASE:{port}/?{query}\""
                    ))
                    .arg(program)
                    .args(arguments);
                command
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(link: &Link) -> Vec<String> {
        link.command(Path::new("chromium"), &["--headless".into()], 80, "a=b")
            .get_args()
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn losses_hit_the_direction_that_media_takes() {
        let link = |up| Link::Emulated {
            kbps: 3000,
            delay: Duration::from_millis(50),
            loss: Ratio::clamped(0.03),
            up,
        };
        let words_up = words(&link(true));
        let at = words_up.iter().position(|w| w == "--uplink-loss").unwrap();
        assert_eq!(words_up[at + 1], "0.03");
        assert!(!words_up.contains(&"--downlink-loss".into()));
        assert!(words_up.contains(&"50ms".into()) && words_up.contains(&"3000Kbps".into()));
        assert!(words(&link(false)).contains(&"--downlink-loss".into()));
        assert!(words_up[words_up.len() - 3].contains("http://$RATTAN_BASE:80/?a=b"));
        assert_eq!(words_up.last().map(String::as_str), Some("--headless"));
    }

    #[test]
    fn without_a_link_the_page_is_on_loopback() {
        assert_eq!(
            words(&Link::Direct),
            ["--headless", "http://127.0.0.1:80/?a=b"]
        );
    }
}
