// SPDX-License-Identifier: MPL-2.0
//! Chromium under remote control, by the DevTools protocol over two pipes: runs
//! script in a page, reads its console, takes screenshots.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use gst::glib;
use nix::sys::stat::Mode;
use serde_json::{Value, json};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const TARGET_TIMEOUT: Duration = Duration::from_secs(40);

type Waiting = Arc<Mutex<HashMap<u64, Sender<Value>>>>;

/// The two pipes of one browser.
pub struct Pipes {
    to: PathBuf,
    from: PathBuf,
}

impl Pipes {
    pub fn create(folder: &Path) -> Result<Self> {
        let pipes = Self {
            to: folder.join("devtools-in"),
            from: folder.join("devtools-out"),
        };
        for path in [&pipes.to, &pipes.from] {
            nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        }
        Ok(pipes)
    }

    /// For `sh -c`: runs the words after it with the pipes where
    /// `--remote-debugging-pipe` wants them.
    pub fn wrapper(&self) -> String {
        format!(
            "exec \"$@\" 3<'{}' 4>'{}'",
            self.to.display(),
            self.from.display()
        )
    }

    /// Before the browser starts, or it would wait for us.
    pub fn open(&self) -> Result<Devtools> {
        // To both ends: never waits, never ends.
        let both = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
        let (to, from) = (both(&self.to)?, both(&self.from)?);
        let waiting = Waiting::default();
        let complaints = Arc::new(Mutex::new(Vec::new()));
        let (answers, complained) = (waiting.clone(), complaints.clone());
        // Ends with this process, or by what `Drop` writes.
        std::thread::spawn(move || listen(from, &answers, &complained));
        Ok(Devtools {
            to: Mutex::new((to, 0)),
            waiting,
            complaints,
            from: self.from.clone(),
            page: Mutex::new(None),
        })
    }
}

/// `\0` ends each message.
const END: u8 = 0;

fn listen(from: File, waiting: &Waiting, complaints: &Mutex<Vec<String>>) {
    let mut from = BufReader::new(from);
    let mut bytes = Vec::new();
    while matches!(from.read_until(END, &mut bytes), Ok(count) if count > 1) {
        bytes.pop();
        if let Ok(message) = serde_json::from_slice::<Value>(&bytes) {
            if let Some(id) = message["id"].as_u64() {
                let waits = waiting.lock().expect("nobody panics with it").remove(&id);
                if let Some(waits) = waits {
                    // Given up meanwhile.
                    let _ = waits.send(message);
                }
            } else if let Some(text) = complaint(&message) {
                let mut complaints = complaints.lock().expect("nobody panics with it");
                complaints.push(text);
            }
        }
        bytes.clear();
    }
}

/// Errors and warnings of script, network and browser.
fn complaint(message: &Value) -> Option<String> {
    let params = &message["params"];
    match message["method"].as_str()? {
        "Runtime.consoleAPICalled" => {
            let kind = params["type"].as_str()?;
            ["error", "warning", "assert"]
                .contains(&kind)
                .then(|| format!("console.{kind}: {}", params["args"]))
        }
        "Runtime.exceptionThrown" => Some(format!("exception: {}", params["exceptionDetails"])),
        "Log.entryAdded" => {
            let entry = &params["entry"];
            ["error", "warning"]
                .contains(&entry["level"].as_str()?)
                .then(|| format!("{}: {} {}", entry["source"], entry["text"], entry["url"]))
        }
        _ => None,
    }
}

pub struct Devtools {
    /// With the number of the last message.
    to: Mutex<(File, u64)>,
    waiting: Waiting,
    complaints: Arc<Mutex<Vec<String>>>,
    from: PathBuf,
    /// The session with the page.
    page: Mutex<Option<String>>,
}

impl Drop for Devtools {
    fn drop(&mut self) {
        // An empty message ends the thread that listens.
        if let Ok(mut from) = OpenOptions::new().read(true).write(true).open(&self.from) {
            let _ = from.write_all(&[END]);
        }
    }
}

impl Devtools {
    fn ask(&self, method: &str, params: Value) -> Result<Value> {
        let session = self.page.lock().expect("nobody panics with it").clone();
        let (sender, answer): (_, Receiver<Value>) = channel();
        {
            let mut to = self.to.lock().expect("nobody panics with it");
            to.1 += 1;
            let id = to.1;
            let mut message = json!({ "id": id, "method": method, "params": params });
            if let Some(session) = session {
                message["sessionId"] = session.into();
            }
            self.waiting
                .lock()
                .expect("nobody panics with it")
                .insert(id, sender);
            let mut bytes = message.to_string().into_bytes();
            bytes.push(END);
            to.0.write_all(&bytes)?;
        }
        let answer = answer
            .recv_timeout(ANSWER_TIMEOUT)
            .with_context(|| format!("the browser does not answer {method}"))?;
        if let Some(error) = answer.get("error") {
            bail!("{method}: {error}");
        }
        Ok(answer["result"].clone())
    }

    /// Waits for the page and listens to its console, from its beginning.
    pub fn attach(&self) -> Result<()> {
        let end = Instant::now() + TARGET_TIMEOUT;
        let target = loop {
            let targets = self.ask("Target.getTargets", json!({}))?;
            let page = targets["targetInfos"].as_array().and_then(|targets| {
                targets.iter().find(|t| {
                    t["type"] == "page" && t["url"].as_str().is_some_and(|u| u.starts_with("http"))
                })
            });
            if let Some(page) = page {
                break page["targetId"].clone();
            }
            if Instant::now() > end {
                bail!("no page: {targets}");
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let attached = self.ask(
            "Target.attachToTarget",
            json!({ "targetId": target, "flatten": true }),
        )?;
        let session = attached["sessionId"].as_str().context("no session")?;
        *self.page.lock().expect("nobody panics with it") = Some(session.to_owned());
        for domain in ["Runtime.enable", "Log.enable", "Page.enable"] {
            self.ask(domain, json!({}))?;
        }
        Ok(())
    }

    /// The value of an expression in the page; of a promise, once there is one.
    pub fn evaluate(&self, expression: &str) -> Result<Value> {
        let result = self.ask(
            "Runtime.evaluate",
            json!({
                "expression": expression,
                "returnByValue": true,
                "awaitPromise": true,
                "userGesture": true,
            }),
        )?;
        if let Some(exception) = result.get("exceptionDetails") {
            bail!("{expression}: {exception}");
        }
        Ok(result["result"]["value"].clone())
    }

    /// As PNG.
    pub fn screenshot(&self, path: &Path) -> Result<()> {
        let shot = self.ask("Page.captureScreenshot", json!({ "format": "png" }))?;
        let data = shot["data"].as_str().context("no picture")?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(std::fs::write(path, glib::base64_decode(data))?)
    }

    /// What console and network complained of so far.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints
            .lock()
            .expect("nobody panics with it")
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_heard_and_chatter_is_not() {
        let console = |kind: &str| json!({ "method": "Runtime.consoleAPICalled", "params": { "type": kind, "args": ["x"] } });
        assert_eq!(complaint(&console("log")), None);
        assert!(complaint(&console("error")).is_some_and(|text| text.contains('x')));
        let log = |level: &str| json!({ "method": "Log.entryAdded", "params": { "entry": { "level": level, "source": "network", "text": "404", "url": "u" } } });
        assert_eq!(complaint(&log("info")), None);
        assert!(complaint(&log("error")).is_some());
        assert!(complaint(&json!({ "method": "Runtime.exceptionThrown", "params": {} })).is_some());
    }

    #[test]
    fn answers_find_who_asked() {
        let folder = std::env::temp_dir().join(format!("dualstream-pipes-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let pipes = Pipes::create(&folder).unwrap();
        let devtools = pipes.open().unwrap();
        let (to, from) = (pipes.to.clone(), pipes.from.clone());
        let browser = std::thread::spawn(move || {
            let mut heard = Vec::new();
            BufReader::new(File::open(to).unwrap())
                .read_until(END, &mut heard)
                .unwrap();
            let mut from = OpenOptions::new().write(true).open(from).unwrap();
            from.write_all(b"nonsense\0{\"id\":9}\0{\"id\":1,\"result\":{\"a\":2}}\0")
                .unwrap();
            String::from_utf8(heard).unwrap()
        });
        assert_eq!(
            devtools.ask("Some.thing", json!({})).unwrap(),
            json!({ "a": 2 })
        );
        assert!(
            browser
                .join()
                .unwrap()
                .contains("\"method\":\"Some.thing\"")
        );
        drop(devtools);
        let _ = std::fs::remove_dir_all(folder);
    }
}
