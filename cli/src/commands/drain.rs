//! `holdfast node drain`: starts a drain and watches it.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use holdfast_schema::admin::{DrainStatus, ForceRequest};
use holdfast_schema::cluster::MemberState;
use holdfast_schema::config::format_millis;
use hyper::Method;
use tokio::signal::unix::{SignalKind, signal};

use super::Context;
use crate::client::Answer;
use crate::failure::Failure;
use crate::output::Output;

/// How often the director is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// How long the director that is asked may be away (a leader is being elected, say).
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait for the end.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// Then give up watching.
    pub timeout_ms: u32,
    /// Do not wait at all.
    pub no_wait: bool,
}

pub async fn run(
    context: &Context,
    name: &str,
    wait: Wait,
    force: Option<String>,
) -> Result<(), Failure> {
    let began = Instant::now();
    let path = format!("/v1/nodes/{name}/drain");
    // Caught from here on: once the request is out, the drain goes on whatever happens to us.
    let (mut interrupt, mut terminate) = signals()?;
    let request = ForceRequest { force };
    let watching = async {
        let answer = context.client.send(Method::POST, &path, &request).await?;
        if wait.no_wait {
            return Ok(answer);
        }
        watch(context, name, &path, answer).await
    };
    let deadline = Duration::from_millis(u64::from(wait.timeout_ms));
    let ended = tokio::select! {
        ended = tokio::time::timeout(deadline, watching) => ended,
        _ = interrupt.recv() => return Err(interrupted(name)),
        _ = terminate.recv() => return Err(interrupted(name)),
    };
    let answer: Answer<DrainStatus> = match ended {
        Ok(watched) => watched?,
        Err(_) => {
            let after = format_millis(wait.timeout_ms);
            return Err(Failure::deadline(
                format!("{name} is not drained after {after}; the drain goes on"),
                format!(
                    "`holdfast node drain {name}` watches it again, `holdfast node undrain {name}` ends it"
                ),
            ));
        }
    };
    let drained = answer.value.state == MemberState::Drained;
    let seconds = began.elapsed().as_secs_f64();
    context.output.result(&answer.json, || {
        if drained {
            format!("{name} is drained ({seconds:.1} s); its connections go on with the others")
        } else {
            format!("{name} is draining; `holdfast node drain {name}` watches it")
        }
    })
}

fn signals() -> Result<(tokio::signal::unix::Signal, tokio::signal::unix::Signal), Failure> {
    let caught = |kind| {
        signal(kind).map_err(|e| Failure::error(format!("cannot watch for signals: {e}"), ""))
    };
    Ok((caught(SignalKind::interrupt())?, caught(SignalKind::terminate())?))
}

fn interrupted(name: &str) -> Failure {
    Failure::interrupted(
        format!("interrupted: the drain of {name} goes on"),
        format!(
            "`holdfast node drain {name}` watches it again, `holdfast node undrain {name}` ends it"
        ),
    )
}

/// Asks until it is drained, and shows the progress.
async fn watch(
    context: &Context,
    name: &str,
    path: &str,
    first: Answer<DrainStatus>,
) -> Result<Answer<DrainStatus>, Failure> {
    let mut progress = Progress::new(context.output);
    let mut answer = first;
    loop {
        progress.show(&answer.value);
        match answer.value.state {
            MemberState::Drained => return Ok(answer),
            MemberState::Draining => {}
            MemberState::Active | MemberState::Joining => {
                return Err(Failure::precondition(
                    format!("{name} is not being drained any more: somebody has undrained it"),
                    "ask them, or drain it again",
                ));
            }
        }
        answer = patiently(context, path).await?;
    }
}

/// The next answer; a director that is away for a moment is asked again.
async fn patiently(context: &Context, path: &str) -> Result<Answer<DrainStatus>, Failure> {
    let since = Instant::now();
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        match context.client.get(path).await {
            Ok(answer) => return Ok(answer),
            Err(failure)
                if matches!(failure.code(), "unreachable" | "unavailable")
                    && since.elapsed() < PATIENCE => {}
            Err(failure) => {
                return Err(failure.within("the drain goes on, but it cannot be watched"));
            }
        }
    }
}

/// Shows a line that is overwritten on a terminal, a line for each step elsewhere.
struct Progress {
    output: Output,
    terminal: bool,
    last: String,
}

impl Progress {
    fn new(output: Output) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        Progress { output, terminal, last: String::new() }
    }

    fn show(&mut self, status: &DrainStatus) {
        if self.output.for_programs() {
            return;
        }
        let line = line(status);
        // Elsewhere than on a terminal, numbers that go down are no news; steps and notes are.
        let news = if self.terminal {
            line.clone()
        } else {
            format!("{}{}", status.step, status.notes.join(""))
        };
        if news == self.last {
            return;
        }
        if self.terminal {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K{line}");
            if status.state == MemberState::Drained {
                self.output.note("");
            }
        } else {
            self.output.note(&line);
        }
        self.last = news;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && !self.last.is_empty() {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}

/// One line: the step and what is left.
fn line(status: &DrainStatus) -> String {
    let doing = match status.step.as_str() {
        "flushing" => "replicating every session",
        "moving-votes" => "moving its votes",
        "vips-worse" => "moving clients to the others",
        "lips-worse" => "moving replies to the others",
        "quiet" => "waiting for the last packets",
        "drained" => "drained",
        other => other,
    };
    let DrainStatus { name, unreplicated, owned, votes, .. } = status;
    let mut line = format!(
        "{name}: {doing} ({unreplicated} sessions only it knows, {owned} it still carries, {votes} votes)"
    );
    for note in &status.notes {
        line += "; ";
        line += note;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_the_step_and_what_is_left() {
        let status = DrainStatus {
            name: "d2".into(),
            state: MemberState::Draining,
            step: "vips-worse".into(),
            unreplicated: 0,
            owned: 12,
            votes: 0,
            quiet_ms: 5,
            notes: vec!["the router ignores the signal".into()],
        };
        assert_eq!(
            line(&status),
            "d2: moving clients to the others (0 sessions only it knows, 12 it still carries, 0 votes); \
             the router ignores the signal"
        );
    }
}
