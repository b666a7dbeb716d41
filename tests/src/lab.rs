//! A lab for one test: raised by `holdfast-chaos lab up`, taken away when dropped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::run::{Finished, binary, eventually, run};

/// A folder for a test, with the process it is for in its name: one that is left behind is found.
pub fn folder() -> Result<TempDir> {
    let prefix = format!("hf-test-{}-", std::process::id());
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir_in("/tmp")?)
}

/// A lab that goes away with this value.
pub struct Lab {
    dir: TempDir,
    file: PathBuf,
}

/// A director of the lab.
#[derive(Debug, Clone)]
pub struct Director {
    /// Its name.
    pub id: String,
    /// Its network namespace.
    pub netns: String,
    /// Path of its admin socket.
    pub admin_socket: String,
    /// Address of its metrics.
    pub metrics: String,
    /// Process id of its daemon.
    pub daemon: u32,
}

impl Lab {
    /// Raises a lab and waits until its cluster has settled. It is for this process: when that is ended
    /// before it can drop the lab, `lab down --stale` takes it away.
    pub fn up(directors: u32, backends: u32, clients: u32) -> Result<Lab> {
        let dir = folder()?;
        let file = dir.path().join("lab.json");
        let lab = Lab { dir, file };
        run(
            Command::new(binary("holdfast-chaos"))
                .args(["lab", "up", "--owner", &std::process::id().to_string()])
                .args(["--directors", &directors.to_string()])
                .args(["--backends", &backends.to_string(), "--clients", &clients.to_string()])
                .arg("--bin-dir")
                .arg(binary("holdfast-chaos").parent().context("a binary has a folder")?)
                .arg("--lab")
                .arg(&lab.file),
            Duration::from_secs(120),
        )?
        .ok()?;
        Ok(lab)
    }

    /// A folder that goes away with the lab.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The lab's description as it is now.
    pub fn json(&self) -> Result<Value> {
        let text = std::fs::read_to_string(&self.file)
            .with_context(|| format!("reading {}", self.file.display()))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// A text in the description, by JSON pointer.
    pub fn text(&self, pointer: &str) -> Result<String> {
        let json = self.json()?;
        let value = json.pointer(pointer).with_context(|| format!("the lab has no {pointer}"))?;
        Ok(value.as_str().with_context(|| format!("{pointer} is not a text"))?.to_owned())
    }

    /// The directors as they are now.
    pub fn directors(&self) -> Result<Vec<Director>> {
        let json = self.json()?;
        let list = json["directors"].as_array().context("the lab has no directors")?;
        list.iter()
            .map(|d| {
                let text = |key: &str| {
                    d[key].as_str().map(str::to_owned).with_context(|| format!("no {key} in {d}"))
                };
                Ok(Director {
                    id: text("id")?,
                    netns: text("netns")?,
                    admin_socket: text("admin_socket")?,
                    metrics: text("metrics")?,
                    daemon: d["pids"]["daemon"].as_u64().context("no daemon pid")? as u32,
                })
            })
            .collect()
    }

    /// A command to be run in a namespace.
    pub fn command_in(&self, netns: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", netns]).arg(program);
        command
    }

    /// The interface that leads out of a namespace.
    pub fn interface(&self, netns: &str) -> Result<String> {
        let mut ip = Command::new("ip");
        let text = run(ip.args(["-n", netns, "route", "show", "default"]), Duration::from_secs(5))?
            .ok()?;
        let words: Vec<&str> = text.split_whitespace().collect();
        let dev = words.iter().position(|w| *w == "dev").and_then(|i| words.get(i + 1));
        Ok((*dev.with_context(|| format!("{netns} has no default route: {text}"))?).to_owned())
    }

    /// `holdfast` against a director.
    pub fn holdfast(&self, director: &Director, args: &[&str]) -> Result<Finished> {
        run(
            Command::new(binary("holdfast"))
                .args(["--socket", &director.admin_socket])
                .args(["--output", "json"])
                .args(args),
            Duration::from_secs(60),
        )
    }

    /// `holdfast` against a director; its answer as JSON.
    pub fn ask(&self, director: &Director, args: &[&str]) -> Result<Value> {
        let text = self.holdfast(director, args)?.ok()?;
        serde_json::from_str(&text).with_context(|| format!("{args:?} answered {text}"))
    }

    /// Waits until the cluster says that it has settled.
    pub fn settled(&self, director: &Director, deadline: Duration) -> Result<Value> {
        eventually("the cluster settles", deadline, || {
            let status = self.ask(director, &["status"])?;
            if status["cluster"]["settled"] != Value::Bool(true) {
                bail!("unsettled: {}", status["cluster"]["unsettled"]);
            }
            Ok(status)
        })
    }

    /// Takes it away and says whether that went well. (Dropping it does the same in silence.)
    pub fn down(self) -> Result<()> {
        self.take_down()?.ok().map(|_| ())
    }

    fn take_down(&self) -> Result<Finished> {
        run(
            Command::new(binary("holdfast-chaos")).args(["lab", "down", "--lab"]).arg(&self.file),
            Duration::from_secs(60),
        )
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.file.exists()
            && let Err(error) = self.take_down()
        {
            eprintln!("taking the lab away: {error:#}");
        }
    }
}
