//! A follower of the control group that stands still for long: what it led before, what became of that, and
//! what it wakes up to.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_schema::admin::ClusterStatus;

use super::{Effect, ask, crash};
use crate::admin;
use crate::lab::plan::Site;
use crate::scenario::run::Run;
use crate::scenario::steps::StepName;
use crate::scenario::wait::until;

/// How long it stands still (ms).
const LASTS_MS: u64 = 30_000;
/// Within this time the others declare it down.
const DECLARED_DOWN: Duration = Duration::from_secs(12);
/// And within this one what it led has another leader: both are over before it goes on.
const LED_BY_OTHERS: Duration = Duration::from_secs(12);

/// The control group among the groups of a status.
const CONTROL: &str = "control";

/// What a director is to the cluster, as one of its members sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// The session groups that it leads.
    led: Vec<String>,
    /// The term of every group.
    terms: BTreeMap<String, u64>,
    /// In how many groups it votes.
    votes: u32,
}

impl Standing {
    fn of(name: &str, cluster: &ClusterStatus) -> Standing {
        let leads = |leader: &Option<String>| leader.as_deref() == Some(name);
        let led = cluster.groups.iter().filter(|g| g.name != CONTROL && leads(&g.leader));
        Standing {
            led: led.map(|g| g.name.clone()).collect(),
            terms: cluster.groups.iter().map(|g| (g.name.clone(), g.term)).collect(),
            votes: cluster.nodes.iter().find(|n| n.name == name).map_or(0, |n| n.votes),
        }
    }
}

/// A director that stands still, and what it was.
#[derive(Clone, Debug)]
pub struct Frozen {
    site: Site,
    before: Standing,
    /// The same just before it goes on.
    last: Option<Standing>,
}

/// A director that serves and does not lead the control group: of those, one that leads most session groups.
pub async fn choose(run: &Run, serving: &[Site]) -> Result<Vec<Site>> {
    let status = ask(run, &[]).await?;
    let leader = status.leader.as_deref().context("the control group has no leader")?;
    let led = |site: &Site| Standing::of(&site.name(), &status).led.len();
    let followers: Vec<Site> = serving.iter().copied().filter(|s| s.name() != leader).collect();
    let most = followers.iter().map(led).max().context("every director leads")?;
    let followers: Vec<Site> = followers.into_iter().filter(|s| led(s) == most).collect();
    let followers = run.draw(StepName::FreezeFollower, followers);
    Ok(vec![*followers.first().context("nobody leads most")?])
}

/// SIGSTOP, until the others have declared it down, and lead what it led.
pub async fn freeze(run: &mut Run, target: Site) -> Result<Effect> {
    let (name, only) = (target.name(), [target]);
    let before = Standing::of(&name, &ask(run, &only).await?);
    run.frozen = Some(Frozen { site: target, before: before.clone(), last: None });
    let mut effect = crash::freeze(run, target, LASTS_MS).await?;
    let down = until("it is declared down", DECLARED_DOWN, async || {
        let status = ask(run, &only).await?;
        let node = status.nodes.iter().find(|n| n.name == name).context("it is no member")?;
        ensure!(!node.up, "it is up");
        Ok(())
    });
    if down.await.is_err() {
        effect.missing.push(format!("nobody declared {name} down"));
    }
    let others = until("others lead what it led", LED_BY_OTHERS, async || {
        led_by_others(&name, &before, &ask(run, &only).await?)
    });
    if let Err(error) = others.await {
        effect.missing.push(format!("{error:#}"));
    }
    Ok(effect)
}

/// Whether all that a director led has another leader, in a later term.
fn led_by_others(name: &str, before: &Standing, now: &ClusterStatus) -> Result<()> {
    for led in &before.led {
        let group = now.groups.iter().find(|g| g.name == *led).context("a group is gone")?;
        let leader = group.leader.as_deref().with_context(|| format!("nobody leads {led}"))?;
        ensure!(leader != name, "{name} still leads {led}");
        ensure!(Some(&group.term) > before.terms.get(led), "{led} has no later term");
    }
    Ok(())
}

/// The last look at it before it goes on, if one stands still.
pub async fn last_look(run: &mut Run) {
    let Some(mut frozen) = run.frozen.take() else { return };
    let name = frozen.site.name();
    frozen.last = ask(run, &[frozen.site]).await.ok().map(|now| Standing::of(&name, &now));
    run.frozen = Some(frozen);
}

/// Tells what became of it, now that all has settled.
pub async fn tell(run: &mut Run, effect: &mut Effect) -> Result<()> {
    let Some(Frozen { site, before, last }) = run.frozen.take() else { return Ok(()) };
    let status = admin::status(&run.plan.admin_socket(site)).await?;
    let cluster = status.cluster.context("it belongs to no cluster any more")?;
    let woken = Standing::of(&site.name(), &cluster);
    effect.notes.push(story(&site.name(), &before, last.as_ref(), &woken));
    Ok(())
}

/// What it was before, what it was while it stood still, and what it woke up to.
fn story(name: &str, before: &Standing, last: Option<&Standing>, woken: &Standing) -> String {
    let led = match before.led.len() {
        0 => format!("{name} led no session group"),
        n => format!("{name} led {n} session groups, which got other leaders"),
    };
    let votes = match last.map(|last| last.votes) {
        None => format!("what became of its {} votes is unknown", before.votes),
        Some(votes) if votes == before.votes => {
            format!("its {votes} votes were left to it")
        }
        Some(votes) => format!("of its {} votes {votes} were left to it", before.votes),
    };
    let later = |group: &&String| woken.terms.get(*group) > before.terms.get(*group);
    let groups = before.terms.keys();
    let (control, session): (Vec<&String>, Vec<&String>) =
        groups.filter(later).partition(|group| *group == CONTROL);
    let control = if control.is_empty() { "the same term" } else { "a later term" };
    format!(
        "{led}; {votes}; it woke up to {control} of the control group, and to later terms of {} session \
         groups",
        session.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(groups: &[(&str, Option<&str>, u64)], votes: u32) -> ClusterStatus {
        let group = |(name, leader, term): &(&str, Option<&str>, u64)| {
            serde_json::json!({"name": name, "leader": leader, "term": term, "committed": 1,
                "applied": 1, "voters": [], "learners": [], "sessions": 0})
        };
        let node = serde_json::json!({"id": 3, "name": "d3", "address": "10.71.3.2:7400",
            "state": "active", "up": false, "ready": null, "announcement": null, "incarnation": 1,
            "lips": [], "sessions": null, "votes": votes});
        let groups: Vec<_> = groups.iter().map(group).collect();
        serde_json::from_value(serde_json::json!({"id": "c", "revision": 8, "membership_epoch": 2,
            "leader": "d1", "nodes": [node], "groups": groups, "planned": [], "backends": [],
            "settled": false, "unsettled": []}))
        .unwrap()
    }

    #[test]
    fn what_it_led_has_others_in_later_terms() {
        let before = cluster(
            &[("control", Some("d1"), 2), ("shard-0", Some("d3"), 4), ("shard-1", Some("d1"), 4)],
            3,
        );
        let before = Standing::of("d3", &before);
        assert_eq!((before.led.as_slice(), before.votes), (&["shard-0".to_owned()][..], 3));
        for (leader, term, complaint) in [
            (None, 5, "nobody leads shard-0"),
            (Some("d3"), 4, "d3 still leads shard-0"),
            (Some("d2"), 4, "shard-0 has no later term"),
        ] {
            let now = cluster(&[("shard-0", leader, term), ("shard-1", None, 4)], 3);
            let error = led_by_others("d3", &before, &now).unwrap_err().to_string();
            assert_eq!(error, complaint);
        }
        let now = cluster(&[("shard-0", Some("d2"), 5), ("shard-1", None, 4)], 3);
        assert!(led_by_others("d3", &before, &now).is_ok(), "what it did not lead is no matter");
    }

    #[test]
    fn its_story_says_what_was_seen() {
        let of = |terms: [u64; 2], leader, votes| {
            let [control, shard] = terms;
            let groups = [("control", Some("d1"), control), ("shard-0", leader, shard)];
            Standing::of("d3", &cluster(&groups, votes))
        };
        let (before, woken) = (of([2, 4], Some("d3"), 2), of([2, 5], Some("d2"), 2));
        assert_eq!(
            story("d3", &before, Some(&woken), &woken),
            "d3 led 1 session groups, which got other leaders; its 2 votes were left to it; it woke up to \
             the same term of the control group, and to later terms of 1 session groups"
        );
        let (before, woken) = (of([2, 4], Some("d1"), 2), of([3, 4], Some("d1"), 1));
        let told = story("d3", &before, Some(&woken), &woken);
        assert!(told.starts_with("d3 led no session group; of its 2 votes 1 were left"), "{told}");
        assert!(told.ends_with(
            "a later term of the control group, and to later terms of 0 session groups"
        ));
        assert!(story("d3", &before, None, &woken).contains("its 2 votes is unknown"));
    }
}
