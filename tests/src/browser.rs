//! A real browser, to look at our pages as people do: Debian's Chromium without a window, spoken to by its own protocol over a pipe.
//!
//! A page is opened with scripts disabled. What is asked about it is asked by the inspector, which needs no script of the page's.

use crate::scratch::Scratch;
use crate::target_dir;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long the browser may take for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a page is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// For the picture's name.
    pub name: &'static str,
    /// Pixels.
    pub width: u32,
    /// Whether the person wants it dark.
    pub dark: bool,
}

impl Screen {
    /// A desk's.
    pub const DESKTOP: Self = Self { name: "desktop", width: 1280, dark: false };
    /// The same at night.
    pub const NIGHT: Self = Self { name: "night", width: 1280, dark: true };
    /// A phone's, at night.
    pub const PHONE: Self = Self { name: "phone", width: 390, dark: true };
}

/// What was seen of a page.
#[derive(Debug, Clone)]
pub struct Look {
    /// The text as it is shown: what is hidden is not in it.
    pub text: String,
    /// The document as the browser understood it.
    pub dom: String,
    /// Elements that are wider than the screen or reach beyond it.
    pub overflowing: Vec<String>,
    /// Texts with less than 4.5 to 1 against what is behind them (WCAG AA).
    pub faint: Vec<String>,
    /// Whatever the browser logged: errors, refusals by the page's own policy, warnings.
    pub complaints: Vec<String>,
    /// Every request but that for the page itself.
    pub requests: Vec<String>,
    /// The picture, kept below `target/…/pages`.
    pub picture: PathBuf,
}

/// A running browser with one tab.
#[derive(Debug)]
pub struct Browser {
    scratch: Scratch,
    chromium: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    session: String,
    sent: u64,
    /// Events that came while an answer was awaited.
    events: Vec<Value>,
}

/// What is asked of a page: see [`Look`].
const QUESTION: &str = r#"(() => {
  const wide = document.documentElement.clientWidth, name = (e) => `${e.tagName}.${e.getAttribute("class") ?? ""}: ${(e.textContent ?? "").slice(0, 60)}`;
  const shown = [...document.body.querySelectorAll("*")].filter((e) => e.getClientRects().length > 0);
  const overflowing = shown.filter((e) => !e.closest("svg") && e.getBoundingClientRect().right > wide + 0.5).map(name);
  if (document.documentElement.scrollWidth > wide) overflowing.push(`the page: ${document.documentElement.scrollWidth} of ${wide}`);
  const channels = (colour) => (colour.match(/[\d.]+/g) ?? []).map(Number);
  const light = (colour) => {
    const [r, g, b] = channels(colour).map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    for (let at = e; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor, [, , , alpha] = channels(colour);
      if (alpha === undefined || alpha === 1) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = shown.filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())).flatMap((e) => {
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))], ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    return ratio < 4.5 ? [`${ratio.toFixed(2)} ${name(e)}`] : [];
  });
  return { height: document.documentElement.scrollHeight, text: document.body.innerText, dom: document.documentElement.outerHTML, overflowing, faint };
})()"#;

impl Browser {
    /// Starts one with an empty profile of its own.
    pub fn start() -> Self {
        let scratch = Scratch::new("browser");
        let log = File::create(scratch.join("chromium.log")).expect("create the browser's log");
        let mut command = scratch.command("sh");
        // The protocol is spoken on descriptors 3 and 4; the shell puts our two pipes there.
        command.args(["-c", r#"exec "$@" 3<&0 4>&1 0</dev/null 1>/dev/null"#, "sh", "chromium"]);
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
        ]);
        command.args([
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
        ]);
        command.arg(format!("--user-data-dir={}", scratch.join("profile").display())).arg("about:blank");
        command.env("HOME", scratch.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut chromium = command.spawn().expect("start the browser: is the package chromium installed? `make tools` does it");
        let to = chromium.stdin.take().expect("its commands");
        let mut out = BufReader::new(chromium.stdout.take().expect("its answers"));
        let (tell, from) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while out.read_until(0, &mut message).is_ok_and(|n| n > 0) {
                message.pop();
                let value = serde_json::from_slice(&message).unwrap_or_else(|e| panic!("the browser's JSON: {e}"));
                message.clear();
                if tell.send(value).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self { scratch, chromium, to, from, session: String::new(), sent: 0, events: Vec::new() };
        let tab = browser.ask("Target.createTarget", json!({"url": "about:blank"}));
        let attached = browser.ask("Target.attachToTarget", json!({"targetId": tab["targetId"], "flatten": true}));
        browser.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.ask(&format!("{domain}.enable"), json!({}));
        }
        browser.ask("Emulation.setScriptExecutionDisabled", json!({"value": true}));
        browser
    }

    /// Opens a page with scripts disabled and looks at all of it.
    pub fn look(&mut self, name: &str, html: &str, screen: Screen) -> Look {
        let file = self.scratch.join(format!("{name}.html"));
        fs::write(&file, html).expect("write the page");
        let url = format!("file://{}", file.display());
        let scheme = if screen.dark { "dark" } else { "light" };
        self.ask("Emulation.setEmulatedMedia", json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]}));
        let metrics = json!({"width": screen.width, "height": 844, "deviceScaleFactor": 1, "mobile": screen.width < 600});
        self.ask("Emulation.setDeviceMetricsOverride", metrics);
        self.events.clear();
        let went = self.ask("Page.navigate", json!({"url": url}));
        assert!(went["errorText"].is_null(), "{url}: {went}");
        self.wait_for_event("Page.loadEventFired");
        let seen = self.ask("Runtime.evaluate", json!({"expression": QUESTION, "returnByValue": true}));
        assert!(seen["exceptionDetails"].is_null(), "{seen}");
        let seen = &seen["result"]["value"];
        // A page of 60 clusters is higher than the browser can paint at once.
        let height = seen["height"].as_f64().expect("a height").min(8000.0);
        let clip = json!({"x": 0, "y": 0, "width": screen.width, "height": height, "scale": 1});
        let shot = self.ask("Page.captureScreenshot", json!({"format": "png", "captureBeyondViewport": true, "clip": clip}));
        let pictures = target_dir().join("pages");
        fs::create_dir_all(&pictures).expect("make a directory for pictures");
        let picture = pictures.join(format!("{name}-{}.png", screen.name));
        let png = BASE64.decode(shot["data"].as_str().expect("a picture")).expect("base64");
        fs::write(&picture, png).expect("keep the picture");
        let list = |key: &str| seen[key].as_array().expect(key).iter().map(|v| v.as_str().unwrap_or_default().to_owned()).collect();
        let events = |method: &str| self.events.iter().filter(|e| e["method"] == method).map(|e| e["params"].clone()).collect::<Vec<_>>();
        let mut complaints: Vec<String> = events("Log.entryAdded").iter().map(|e| e["entry"]["text"].to_string()).collect();
        complaints.extend(events("Runtime.consoleAPICalled").iter().chain(&events("Runtime.exceptionThrown")).map(Value::to_string));
        let requested = events("Network.requestWillBeSent");
        let requested = requested.iter().map(|e| e["request"]["url"].as_str().unwrap_or_default().to_owned());
        Look {
            text: seen["text"].as_str().expect("the page's text").to_owned(),
            dom: seen["dom"].as_str().expect("the page's document").to_owned(),
            overflowing: list("overflowing"),
            faint: list("faint"),
            complaints,
            requests: requested.filter(|requested| *requested != url).collect(),
            picture,
        }
    }

    /// Asks something, and gives the answer; what happens meanwhile is kept.
    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.sent += 1;
        let mut message = json!({"id": self.sent, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let sent = self.to.write_all(format!("{message}\0").as_bytes()).and_then(|()| self.to.flush());
        sent.unwrap_or_else(|e| panic!("{method}: {e}\n{}", self.log()));
        loop {
            let answer = self.receive(method);
            match answer["id"].as_u64() {
                Some(id) if id == self.sent => {
                    assert!(answer["error"].is_null(), "{method}: {answer}");
                    return answer["result"].clone();
                }
                Some(_) => {}
                None => self.events.push(answer),
            }
        }
    }

    fn wait_for_event(&mut self, method: &str) {
        while !self.events.iter().any(|event| event["method"] == method) {
            let event = self.receive(method);
            self.events.push(event);
        }
    }

    fn receive(&self, what: &str) -> Value {
        self.from.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("{what}: the browser said nothing: {e}\n{}", self.log()))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("chromium.log")).unwrap_or_default()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // What it has started ends with the scratch directory.
        let _ = self.chromium.kill();
        let _ = self.chromium.wait();
    }
}
