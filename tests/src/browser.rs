//! A browser, driven as its developer tools drive it.
//!
//! Chromium takes orders on file descriptor 3 and answers on 4, each a JSON document and a zero
//! byte, when it is started with `--remote-debugging-pipe`. That needs no port, no driver and no
//! library; a shell puts the pipes where they belong.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::cleanup::{self, Folder};
use crate::netns::Namespace;

/// How long an order may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A headless Chromium with one page; ended when dropped.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    orders: ChildStdin,
    answers: Receiver<Value>,
    /// The page that orders are for, once it is there.
    session: Option<String>,
    last: u64,
    /// What the page has complained about.
    complaints: Vec<String>,
    _profile: Folder,
}

impl Browser {
    /// Starts one in a namespace and opens `url`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn open(namespace: &Namespace, url: &str) -> Result<Self> {
        let profile = Folder::temporary("lb-browser-")?;
        let mut command = namespace.command("sh");
        command.args([
            "-c",
            "exec \"$@\" 3<&0 4>&1 >/dev/null 2>&1 </dev/null",
            "sh",
        ]);
        let mut browser = Self::start(arguments(&mut command, profile.path()), profile)?;
        let target = browser.order("Target.createTarget", &json!({"url": "about:blank"}))?;
        let attached = browser.order(
            "Target.attachToTarget",
            &json!({"targetId": target["targetId"], "flatten": true}),
        )?;
        let session = attached["sessionId"].as_str();
        browser.session = Some(session.context("a page without a session")?.to_owned());
        browser.order("Log.enable", &json!({}))?;
        browser.order("Runtime.enable", &json!({}))?;
        browser.order("Page.enable", &json!({}))?;
        let opened = browser.order("Page.navigate", &json!({"url": url}))?;
        ensure!(opened["errorText"].is_null(), "{url}: {opened}");
        Ok(browser)
    }

    fn start(command: &mut Command, profile: Folder) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("cannot start chromium")?;
        cleanup::add_process(child.id().try_into()?);
        let orders = child.stdin.take().context("no way to the browser")?;
        let answers = child.stdout.take().context("no way from the browser")?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || read(answers, &sender));
        Ok(Self {
            child,
            orders,
            answers: receiver,
            session: None,
            last: 0,
            complaints: Vec::new(),
            _profile: profile,
        })
    }

    /// Gives an order and waits for its result.
    fn order(&mut self, method: &str, parameters: &Value) -> Result<Value> {
        self.last += 1;
        let mut order = json!({"id": self.last, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            order["sessionId"] = json!(session);
        }
        self.orders.write_all(order.to_string().as_bytes())?;
        self.orders.write_all(&[0])?;
        self.orders.flush()?;
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut answer = self
                .answers
                .recv_timeout(left)
                .with_context(|| format!("no answer to {method}"))?;
            if answer["id"] == self.last {
                ensure!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return Ok(answer["result"].take());
            }
            self.hear(&answer);
        }
    }

    /// Remembers what went wrong in the page.
    fn hear(&mut self, event: &Value) {
        let wrong = match event["method"].as_str() {
            Some("Log.entryAdded") => event["params"]["entry"]["level"] == "error",
            Some("Runtime.exceptionThrown") => true,
            _ => false,
        };
        if wrong {
            self.complaints.push(event["params"].to_string());
        }
    }

    /// What the page makes of a JavaScript expression; promises are waited for.
    ///
    /// # Errors
    /// When it throws.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let mut result = self.order(
            "Runtime.evaluate",
            &json!({"expression": expression, "awaitPromise": true, "returnByValue": true}),
        )?;
        if !result["exceptionDetails"].is_null() {
            bail!("{expression}: {}", result["exceptionDetails"]);
        }
        Ok(result["result"]["value"].take())
    }

    /// Waits until an expression is true.
    ///
    /// # Errors
    /// When it is not in time.
    pub fn wait_for(&mut self, expression: &str) -> Result<()> {
        let mut last = Ok(Value::Null);
        let met = cleanup::within(PATIENCE, || {
            last = self.evaluate(expression);
            matches!(last, Ok(Value::Bool(true)))
        });
        ensure!(
            met,
            "{expression} is not true: {last:?}, {:?}",
            self.complaints
        );
        Ok(())
    }

    /// A picture of the page as PNG, in the base64 that the browser gives.
    ///
    /// # Errors
    /// When there is none.
    pub fn picture(&mut self) -> Result<String> {
        let mut picture = self.order("Page.captureScreenshot", &json!({"format": "png"}))?;
        match picture["data"].take() {
            Value::String(data) => Ok(data),
            other => bail!("expected a picture, found {other}"),
        }
    }

    /// Errors that the page has written to its console so far.
    #[must_use]
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let Ok(pid) = self.child.id().try_into() else {
            return;
        };
        // It has processes of its own.
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        drop(self.child.wait());
        cleanup::forget_process(pid);
    }
}

fn arguments<'a>(command: &'a mut Command, profile: &Path) -> &'a mut Command {
    command
        .args([
            "chromium",
            "--headless",
            "--remote-debugging-pipe",
            // The tests are root in a container, where its sandbox cannot be.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--no-first-run",
            "--window-size=1280,1000",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg("about:blank")
}

/// Takes the answers apart until the browser ends.
fn read(answers: ChildStdout, sender: &mpsc::Sender<Value>) {
    let mut answers = BufReader::new(answers);
    loop {
        let mut answer = Vec::new();
        match answers.by_ref().read_until(0, &mut answer) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let Some((0, json)) = answer.split_last() else {
            return;
        };
        if let Ok(value) = serde_json::from_slice(json)
            && sender.send(value).is_err()
        {
            return;
        }
    }
}
