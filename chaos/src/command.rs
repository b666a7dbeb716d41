//! Running the tools that the lab is made with: `ip`, `nft`, `ethtool`, `birdc`, `holdfast`.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// How long a tool may take unless the caller says otherwise.
pub const SOON: Duration = Duration::from_secs(30);

/// Where Debian keeps administrators' tools; not on everybody's PATH.
pub fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")
}

/// The path of a program, if it is installed.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    std::env::split_paths(&search_path()).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// A command with the PATH that finds everything, in UTC.
pub fn command<S: AsRef<OsStr>>(argv: &[S]) -> Command {
    let (program, args) = argv.split_first().expect("a command has a program");
    let mut command = Command::new(program);
    command.args(args).env("PATH", search_path()).env("TZ", "UTC");
    command
}

/// The arguments that run `argv` in a network namespace.
pub fn in_netns(netns: &str, argv: &[&str]) -> Vec<String> {
    ["ip", "netns", "exec", netns].iter().chain(argv).map(|s| (*s).to_owned()).collect()
}

/// How a command ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

/// Runs a command to its end, whatever that is; kills it when it takes longer than `deadline`.
pub async fn finish<S: AsRef<OsStr>>(
    argv: &[S],
    stdin: Option<&str>,
    deadline: Duration,
) -> Result<Finished> {
    let line = describe(argv);
    let mut child = command(argv)
        .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    let to = child.stdin.take();
    let feed = async {
        if let (Some(mut to), Some(text)) = (to, stdin) {
            // A tool that ends early closes its side; its exit code tells why.
            to.write_all(text.as_bytes()).await.ok();
        }
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = match tokio::time::timeout(deadline, both).await {
        Ok(output) => output.with_context(|| format!("waiting for `{line}`"))?,
        Err(_) => bail!("`{line}` did not end within {deadline:?}"),
    };
    Ok(Finished {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs a command that has to end well and gives what it printed.
pub async fn run_within<S: AsRef<OsStr>>(
    argv: &[S],
    stdin: Option<&str>,
    deadline: Duration,
) -> Result<String> {
    let done = finish(argv, stdin, deadline).await?;
    if done.code != 0 {
        let said = if done.stderr.trim().is_empty() { &done.stdout } else { &done.stderr };
        bail!("`{}` ended with {}: {}", describe(argv), done.code, said.trim());
    }
    Ok(done.stdout)
}

/// [`run_within`] the usual time.
pub async fn run<S: AsRef<OsStr>>(argv: &[S]) -> Result<String> {
    run_within(argv, None, SOON).await
}

/// Runs the lines of an `ip -batch` in a namespace (or in ours); stops at the first that fails.
pub async fn ip_batch(netns: Option<&str>, lines: &str) -> Result<String> {
    let mut argv = vec!["ip"];
    if let Some(netns) = netns {
        argv.extend(["-n", netns]);
    }
    argv.extend(["-batch", "-"]);
    run_within(&argv, Some(lines), SOON).await.with_context(|| format!("in the batch\n{lines}"))
}

/// Runs a command in a namespace; it has to end well.
pub async fn run_in(netns: &str, argv: &[&str]) -> Result<String> {
    run(&in_netns(netns, argv)).await
}

fn describe<S: AsRef<OsStr>>(argv: &[S]) -> String {
    let words: Vec<_> = argv.iter().map(|w| w.as_ref().to_string_lossy()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_error_tells_what_the_tool_said() {
        let error = run(&["sh", "-c", "echo no such thing >&2; exit 3"]).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("ended with 3: no such thing"), "{text}");
        let error = run(&["/nonexistent/tool"]).await.unwrap_err();
        assert!(error.to_string().contains("cannot start `/nonexistent/tool`"));
    }

    #[tokio::test]
    async fn standard_input_is_fed_and_deadlines_are_kept() {
        let text = run_within(&["cat"], Some("line"), SOON).await.unwrap();
        assert_eq!(text, "line");
        let late = finish(&["sleep", "60"], None, Duration::from_millis(50)).await.unwrap_err();
        assert!(late.to_string().contains("did not end within"));
    }
}
