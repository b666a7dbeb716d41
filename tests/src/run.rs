//! Running commands, in the foreground with a deadline and in the background, and waiting.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The path of one of our binaries.
pub fn binary(name: &str) -> PathBuf {
    let dir = match std::env::var_os("HOLDFAST_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let exe = std::env::current_exe().expect("a test has a path");
            exe.parent().and_then(|deps| deps.parent()).expect("in target/PROFILE/deps").into()
        }
    };
    let path = dir.join(name);
    assert!(
        path.exists(),
        "{} is not there: run `cargo build --release --workspace --bins` first",
        path.display()
    );
    path
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// What it was.
    pub command: String,
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Finished {
    /// Its output if it ended well, an error with everything it said otherwise.
    pub fn ok(self) -> Result<String> {
        if self.code != 0 {
            bail!("`{}` ended with {}\n{}{}", self.command, self.code, self.stdout, self.stderr);
        }
        Ok(self.stdout)
    }
}

/// How long a command may clean up that was told to end.
const CLEANING_UP: Duration = Duration::from_secs(60);

/// Runs a command to its end; ends it and fails when it takes longer than `deadline`.
pub fn run(command: &mut Command, deadline: Duration) -> Result<Finished> {
    let name = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let stdout = drain(child.stdout.take().expect("piped"));
    let stderr = drain(child.stderr.take().expect("piped"));
    let until = Instant::now() + deadline;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > until {
            end(&mut child);
            bail!("`{name}` did not end within {deadline:?}\n{}{}", stdout.recv()?, stderr.recv()?);
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    Ok(Finished {
        command: name,
        code: status.code().unwrap_or(-1),
        stdout: stdout.recv()?,
        stderr: stderr.recv()?,
    })
}

/// Asks a process to end, so that it can clean up; kills it when it does not.
fn end(child: &mut Child) {
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().ok();
    let until = Instant::now() + CLEANING_UP;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().ok();
    child.wait().ok();
}

fn drain(mut from: impl Read + Send + 'static) -> Receiver<String> {
    let (tx, rx) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).ok();
        tx.send(String::from_utf8_lossy(&bytes).into_owned()).ok();
    });
    rx
}

/// Waits until `condition` gives something; fails with its last complaint after `deadline`.
pub fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<T>,
) -> Result<T> {
    let until = Instant::now() + deadline;
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > until => {
                return Err(error.context(format!("{what}: not within {deadline:?}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// A command in the background; killed when dropped.
pub struct Background {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    name: String,
}

impl Background {
    /// Starts it; its lines on standard output and error can be read one by one.
    pub fn start(command: &mut Command) -> Result<Background> {
        let name = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let (tx, lines) = channel();
        let streams: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().expect("piped")),
            Box::new(child.stderr.take().expect("piped")),
        ];
        for stream in streams {
            let tx = tx.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(|l| l.ok()) {
                    if tx.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        let stdin = child.stdin.take();
        Ok(Background { child, stdin, lines, name })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types a line.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("standard input is closed")?;
        writeln!(stdin, "{line}").with_context(|| format!("typing to {}", self.name))?;
        stdin.flush().with_context(|| format!("typing to {}", self.name))
    }

    /// Waits for a line that `wanted` accepts; the others are passed over.
    pub fn line<T>(
        &mut self,
        deadline: Duration,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let until = Instant::now() + deadline;
        let mut seen = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => match wanted(&line) {
                    Some(found) => return Ok(found),
                    None => seen.push(line),
                },
                Err(_) => bail!(
                    "{}: the line did not come within {deadline:?}; these did:\n{}",
                    self.name,
                    seen.join("\n")
                ),
            }
        }
    }

    /// Waits for its end and gives its exit code (-1: a signal).
    pub fn wait(&mut self, deadline: Duration) -> Result<i32> {
        self.stdin = None;
        let until = Instant::now() + deadline;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code().unwrap_or(-1));
            }
            if Instant::now() > until {
                bail!("`{}` did not end within {deadline:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal by its name (`INT`, `TERM`, `KILL`).
    pub fn signal(&self, signal: &str) -> Result<()> {
        run(
            Command::new("kill").arg(format!("-{signal}")).arg(self.pid().to_string()),
            Duration::from_secs(5),
        )?
        .ok()
        .map(|_| ())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_takes_too_long_may_clean_up() {
        let dir = tempfile::tempdir().unwrap();
        let (ready, cleaned) = (dir.path().join("ready"), dir.path().join("cleaned"));
        let script = format!(
            "trap 'touch {}; exit 1' TERM; touch {}; while :; do sleep 0.05; done",
            cleaned.display(),
            ready.display()
        );
        let error = run(Command::new("sh").args(["-c", &script]), Duration::from_secs(1));
        let text = format!("{:#}", error.unwrap_err());
        assert!(text.contains("did not end within 1s"), "{text}");
        assert!(ready.exists() && cleaned.exists(), "it was killed without a warning");
    }
}
