//! `holdfast session`.

use std::fmt::Write;

use holdfast_schema::admin::{Endpoint, SessionCount, SessionEntry, SessionList, SessionQuery};
use holdfast_schema::config::format_millis;

use super::{Context, node};
use crate::args::{SessionCommand, SessionFilter};
use crate::failure::Failure;
use crate::output::Output;
use crate::table::Table;

pub async fn run(context: &Context, command: SessionCommand) -> Result<(), Failure> {
    match command {
        SessionCommand::List { filter, limit } => {
            let query = SessionQuery { limit: Some(usize::from(limit)), ..query(filter) };
            list(context, &query).await
        }
        SessionCommand::Show { client } => show(context, client).await,
        SessionCommand::Count { filter } => count(context, &query(filter)).await,
    }
}

fn query(filter: SessionFilter) -> SessionQuery {
    let SessionFilter { client, vip, backend, state } = filter;
    SessionQuery { client, vip, backend, state, limit: None }
}

fn path(path: &str, query: &SessionQuery) -> String {
    match query.to_query_string() {
        query if query.is_empty() => path.to_owned(),
        query => format!("{path}?{query}"),
    }
}

/// A list that lacks directors is not a whole one; people are told so.
fn warn(output: Output, missing: &[String]) {
    if !missing.is_empty() && !output.for_programs() {
        output.note(&format!(
            "note: {} did not answer; their sessions may be missing",
            missing.join(", ")
        ));
    }
}

async fn list(context: &Context, query: &SessionQuery) -> Result<(), Failure> {
    let answer = context.client.get::<SessionList>(&path("/v1/sessions", query)).await?;
    let list = &answer.value;
    context.output.result(&answer.json, || table(&list.sessions))?;
    if list.truncated && !context.output.for_programs() {
        let shown = list.sessions.len();
        context.output.note(&format!(
            "note: there are more than these {shown}; filter with --client, --vip, --backend, --state, or raise --limit"
        ));
    }
    warn(context.output, &list.missing);
    Ok(())
}

fn table(sessions: &[SessionEntry]) -> String {
    let mut table = Table::new(&[
        "CLIENT",
        "VIP",
        "PROTOCOL",
        "LISTENER",
        "BACKEND",
        "STATE",
        "DIRECTOR",
        "REPLICATED",
        ">AGE",
        ">IDLE",
    ]);
    for session in sessions {
        let record = &session.record;
        table.row([
            record.key.source().to_string(),
            record.key.destination().to_string(),
            record.key.protocol.to_string(),
            session.listener.clone(),
            session.backend.clone(),
            session.state.clone(),
            session.director.clone(),
            node::yes(Some(session.replicated)),
            rough(record.created_age_ms),
            rough(record.idle_ms()),
        ]);
    }
    table.print()
}

/// A time to read at a glance: `250ms`, `12s`, `5m07s`, `3h20m`.
fn rough(millis: u32) -> String {
    let seconds = millis / 1_000;
    match seconds {
        0 => format!("{millis}ms"),
        1..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
    }
}

async fn show(context: &Context, client: Endpoint) -> Result<(), Failure> {
    let query = SessionQuery { client: Some(client), ..SessionQuery::default() };
    let answer = context.client.get::<SessionList>(&path("/v1/sessions", &query)).await?;
    let list = &answer.value;
    warn(context.output, &list.missing);
    if list.sessions.is_empty() {
        return Err(Failure::not_found(
            format!("no director knows a session of {client}"),
            "`holdfast session list` shows those there are",
        ));
    }
    context
        .output
        .result(&answer.json, || list.sessions.iter().map(details).collect::<Vec<_>>().join("\n"))
}

fn details(session: &SessionEntry) -> String {
    let SessionEntry { record, state, listener, backend, director, replicated, holders } = session;
    let mut out = format!("{}\n", record.key);
    let mut line = |key: &str, value: String| {
        let _ = writeln!(out, "  {key:<12} {value}");
    };
    line("state", state.clone());
    line("listener", listener.clone());
    line("backend", format!("{backend}, {}", record.reply.source()));
    line("LIP", record.reply.destination().to_string());
    line("director", director.clone());
    line("replicated", node::yes(Some(*replicated)));
    line("held by", holders.join(", "));
    line("age", rough(record.created_age_ms));
    line("client", format!("last packet {} ago", rough(record.client.age_ms)));
    line("backend", format!("last packet {} ago", rough(record.backend_seen.age_ms)));
    let idle = format_millis(record.idle_timeout_ms);
    line("idle timeout", idle);
    let incarnation = &record.incarnation;
    line("incarnation", format!("{} by director {}", incarnation.counter, incarnation.creator));
    out
}

async fn count(context: &Context, query: &SessionQuery) -> Result<(), Failure> {
    let path = path("/v1/sessions/count", query);
    let answer = context.client.get::<SessionCount>(&path).await?;
    let count = &answer.value;
    context.output.result(&answer.json, || {
        let mut out = format!("{} sessions\n", count.total);
        for (title, counts) in [("DIRECTOR", &count.by_director), ("STATE", &count.by_state)] {
            if !counts.is_empty() {
                let mut table = Table::new(&[title, ">SESSIONS"]);
                counts.iter().for_each(|(name, n)| table.row([name.clone(), n.to_string()]));
                let _ = write!(out, "\n{}", table.print());
            }
        }
        out
    })?;
    warn(context.output, &count.missing);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::rough;

    #[test]
    fn times_are_read_at_a_glance() {
        let shown = [0, 999, 1_000, 59_999, 60_000, 427_000, 12_000_000].map(rough);
        assert_eq!(shown, ["0ms", "999ms", "1s", "59s", "1m00s", "7m07s", "3h20m"]);
    }
}
