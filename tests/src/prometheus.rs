//! Prometheus, as it would watch lb in earnest.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cleanup::{self, Folder};
use crate::client::curl::curl;
use crate::process::Process;
use crate::topology::Host;

const PORT: u16 = 9090;

/// A running Prometheus that scrapes lb once a second; killed when dropped.
#[derive(Debug)]
pub struct Prometheus<'h> {
    host: &'h Host,
    process: Process,
    _folder: Folder,
}

impl<'h> Prometheus<'h> {
    /// Starts one beside lb, with the alerting rules that come with it.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(host: &'h Host) -> Result<Self> {
        let folder = Folder::temporary("lb-prometheus-")?;
        let (file, data) = (folder.path().join("p.yml"), folder.path().join("data"));
        let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/alerts.yml");
        fs::write(
            &file,
            format!(
                "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{rules:?}]\n\
                 scrape_configs:\n- job_name: lb\n  static_configs: [{{targets: ['127.0.0.1:7700']}}]\n"
            ),
        )?;
        let mut command = host.namespace.command("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address=127.0.0.1:{PORT}"));
        let mut process = Process::start("prometheus", &mut command)?;
        let address = SocketAddr::from(([127, 0, 0, 1], PORT));
        let ready = cleanup::within(Duration::from_secs(30), || {
            let connected = host.namespace.enter(|| TcpStream::connect(address).is_ok());
            process.ended().is_some() || connected.unwrap_or_default()
        });
        if !ready || process.ended().is_some() {
            bail!("Prometheus did not come up: {}", process.log());
        }
        Ok(Self {
            host,
            process,
            _folder: folder,
        })
    }

    /// What its API answers.
    ///
    /// # Errors
    /// When that is no JSON.
    pub fn get(&self, path: &str, arguments: &[&str]) -> Result<Value> {
        let url = format!("http://127.0.0.1:{PORT}{path}");
        let mut all = vec!["--get", url.as_str()];
        all.extend(arguments);
        let answer = curl(&self.host.namespace, &all)?;
        serde_json::from_str(&answer.body).with_context(|| format!("{answer:?}"))
    }

    /// The value of a query that has one.
    fn value(&self, query: &str) -> Result<f64> {
        let argument = format!("query={query}");
        let found = self.get("/api/v1/query", &["--data-urlencode", &argument])?;
        let value = found["data"]["result"][0]["value"][1].as_str();
        let value = value.with_context(|| format!("{query}: {found}"))?;
        Ok(value.parse()?)
    }

    /// Waits until a query has this value.
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn comes_to(&self, query: &str, expected: f64) -> Result<()> {
        let same = || {
            let found = self.value(query);
            found.is_ok_and(|found| (found - expected).abs() < 1e-9)
        };
        ensure!(
            cleanup::within(Duration::from_secs(20), same),
            "{query}: expected {expected}, found {:?}; {}",
            self.value(query),
            self.process.log()
        );
        Ok(())
    }
}
