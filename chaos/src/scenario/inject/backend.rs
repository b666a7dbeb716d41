//! The router hashes by other fields while backends leave: one is drained and comes back, and one that joined
//! just before is drained and removed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_schema::admin::{SessionCount, Status};

use super::{Effect, any_other};
use crate::admin;
use crate::clock::now_ms;
use crate::lab::plan::{Plan, Site, backend};
use crate::lab::{backends, cluster, down, links};
use crate::scenario::run::Run;
use crate::scenario::wait::{until, until_every};

/// The group that the newcomer serves: that of young connections, which come to their end soon.
const GROUP: &str = backends::GROUPS[0];
/// How long it may take until every director sends connections to the newcomer.
const JOINS: Duration = Duration::from_secs(30);
/// How long it may take until nobody uses it any more: young connections live for some ten seconds.
const LEAVES: Duration = Duration::from_secs(45);
/// How often it is tried to remove it.
const EVERY: Duration = Duration::from_millis(500);

/// The backend that is removed: one more than the lab was raised with.
fn newcomer(plan: &Plan) -> Site {
    backend(plan.backends + 1)
}

/// The one that is drained only: the last that the lab was raised with.
fn drained(plan: &Plan) -> Site {
    backend(plan.backends)
}

async fn ask(run: &Run, words: &[&str]) -> Result<String> {
    cluster::holdfast(&run.plan, any_other(run, &[]), words).await
}

/// A backend joins, so that it can be removed: the others have connections that last.
pub async fn add(run: &mut Run) -> Result<()> {
    let site = newcomer(&run.plan);
    let name = site.name();
    if !down::netns_is_there(&run.plan.netns(site)) {
        links::attach(&run.plan, site).await?;
        backends::serve(&run.plan, site).await?;
    }
    let address = format!("{}:{}", site.addr(), backends::ECHO_PORT);
    ask(run, &["backend", "add", GROUP, &name, &address]).await?;
    until("every director uses the new backend", JOINS, async || {
        let mut hashes = Vec::new();
        for director in run.plan.directors() {
            let status = admin::status(&run.plan.admin_socket(director)).await?;
            hashes.push(hash_with(&status, &name)?);
        }
        hashes.dedup();
        ensure!(hashes.len() == 1, "their tables differ");
        Ok(())
    })
    .await
}

/// The hash of a director's tables, once they are of the newest revision and it takes the backend for healthy.
fn hash_with(status: &Status, name: &str) -> Result<u64> {
    let cluster = status.cluster.as_ref().context("it belongs to no cluster")?;
    let known = cluster.backends.iter().find(|b| b.group == GROUP && b.name == name);
    let healthy = known.with_context(|| format!("{name} is not known"))?.healthy;
    ensure!(healthy == Some(true), "{name} is not known to be healthy");
    let tables = status.tables.context("it has no tables yet")?;
    ensure!(tables.revision == cluster.revision, "its tables are of an older revision");
    Ok(tables.hash)
}

/// Both get no new connections from now on, and the router hashes by other fields.
pub async fn reshuffle(run: &mut Run) -> Result<Effect> {
    let (leaves, stays) = (newcomer(&run.plan).name(), drained(&run.plan).name());
    let mut effect = Effect { begin_ms: now_ms(), ..Effect::default() };
    ask(run, &["backend", "drain", GROUP, &leaves]).await?;
    for group in backends::GROUPS {
        ask(run, &["backend", "drain", group, &stays]).await?;
    }
    links::hash_by(&run.plan, links::HashFields::WithoutProtocol).await?;
    effect.done_ms = now_ms();
    let count = count(run, &leaves).await?;
    if count == 0 {
        effect.missing.push(format!("nobody used {leaves}, which was to leave"));
    }
    effect.notes.push(format!("{leaves} had {count} connections when it was drained"));
    Ok(effect)
}

/// How many connections a backend has that are not closed.
async fn count(run: &Run, name: &str) -> Result<u64> {
    let of = format!("{GROUP}/{name}");
    let said = ask(run, &["session", "count", "--backend", &of]).await?;
    let count: SessionCount =
        serde_json::from_str(&said).with_context(|| format!("no count of sessions: {said}"))?;
    let open = count.by_state.iter().filter(|(state, _)| state != "closed" && state != "reset");
    Ok(open.map(|(_, n)| n).sum())
}

/// The newcomer is removed as soon as nobody uses it, and at once the router hashes as before. A removal that
/// would end a connection is refused.
pub async fn remove(run: &mut Run, effect: &mut Effect) -> Result<()> {
    let (leaves, stays) = (newcomer(&run.plan).name(), drained(&run.plan).name());
    let removed = until_every("it is removed", LEAVES, EVERY, async || {
        ask(run, &["backend", "remove", GROUP, &leaves]).await
    });
    match removed.await {
        Ok(_) => {
            let after_ms = now_ms().saturating_sub(effect.begin_ms);
            effect.notes.push(format!("it was removed after {:.1} s", after_ms as f64 / 1000.0));
        }
        Err(error) => effect.missing.push(format!("{leaves} was not removed: {error:#}")),
    }
    links::hash_by(&run.plan, links::HashFields::All).await?;
    for group in backends::GROUPS {
        ask(run, &["backend", "undrain", group, &stays]).await?;
    }
    Ok(())
}
