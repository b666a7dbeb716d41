//! Bad input against a living cluster: a clear error, nothing changed, the daemons go on.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_tests::{Background, Director, Finished, Lab, binary, eventually, run};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);
const REFUSED_BY_PRECONDITION: i32 = 6;

/// What must not change: configuration revision, members, and the daemons' process ids.
fn fingerprint(lab: &Lab) -> Result<String> {
    let directors = lab.directors()?;
    let status = lab.ask(&directors[0], &["status"])?;
    let names: Vec<&Value> = status["cluster"]["nodes"]
        .as_array()
        .context("a cluster has nodes")?
        .iter()
        .map(|n| &n["name"])
        .collect();
    let pids: Vec<u32> = directors.iter().map(|d| d.daemon).collect();
    ensure!(pids.iter().all(|pid| fs::exists(format!("/proc/{pid}")).unwrap_or(false)), "{pids:?}");
    Ok(format!("{} {names:?} {pids:?}", status["cluster"]["revision"]))
}

/// The attempt fails, says all of `words`, and changes nothing.
fn refused(
    lab: &Lab,
    what: &str,
    words: &[&str],
    attempt: impl FnOnce() -> Result<Finished>,
) -> Result<i32> {
    let before = fingerprint(lab)?;
    let finished = attempt().with_context(|| what.to_owned())?;
    let said = format!("{}{}", finished.stdout, finished.stderr);
    ensure!(finished.code != 0, "{what}: was accepted\n{said}");
    for word in words {
        ensure!(said.contains(word), "{what}: the error does not say `{word}`:\n{said}");
    }
    ensure!(fingerprint(lab)? == before, "{what}: something changed");
    Ok(finished.code)
}

fn apply(lab: &Lab, director: &Director, text: &str) -> Result<Finished> {
    let file = lab.dir().join("cluster.toml");
    fs::write(&file, text)?;
    lab.holdfast(director, &["apply", "--yes", "-f", file.to_str().context("a path in UTF-8")?])
}

/// The cluster's own configuration with something added in front of its tables and behind them.
fn with(director: &Director, pool: Option<&str>, tail: &str) -> Result<String> {
    let shown = run(
        Command::new(binary("holdfast")).args([
            "--socket",
            &director.admin_socket,
            "config",
            "show",
        ]),
        SOON,
    )?
    .ok()?;
    let text = match pool {
        None => shown,
        Some(pool) => shown
            .lines()
            .map(|line| {
                if line.starts_with("lip-pool") {
                    format!("lip-pool = [{pool}]")
                } else {
                    line.into()
                }
            })
            .collect::<Vec<String>>()
            .join("\n"),
    };
    Ok(format!("{text}\n{tail}\n"))
}

fn listener(vip: &str, extra: &str) -> String {
    format!(
        "[[listener]]\nname = \"extra\"\nvip = \"{vip}\"\nport = 9\nprotocol = \"tcp\"\ngroup = \"extra\"\n{extra}\n[[group]]\nname = \"extra\"\n"
    )
}

#[test]
fn configurations_that_make_no_sense() -> Result<()> {
    let lab = Lab::up(2, 1, 1)?;
    let directors = lab.directors()?;
    let first = &directors[0];
    let vip = lab.text("/spare_vips/0")?;
    let lip = lab.ask(first, &["status"])?["cluster"]["nodes"][0]["lips"][0]
        .as_str()
        .context("a director has a LIP")?
        .to_owned();
    let own = directors[1]
        .metrics
        .trim_start_matches("http://")
        .split(':')
        .next()
        .context("a host")?
        .to_owned();
    let subnet = format!("\"{}.0/24\"", own.rsplit_once('.').context("an IPv4 address")?.0);

    refused(&lab, "broken TOML", &["cluster.toml:1"], || apply(&lab, first, "kind = \"cluster"))?;
    let unknown = with(first, None, &listener(&vip, "replicate-aftr = \"3s\""))?;
    refused(&lab, "unknown key", &["replicate-aftr", "replicate-after"], || {
        apply(&lab, first, &unknown)
    })?;
    let overlap = with(first, None, &listener(&lip, ""))?;
    refused(&lab, "VIP overlaps a LIP", &[&lip, "LIP"], || apply(&lab, first, &overlap))?;
    let connected = with(first, Some(&subnet), "")?;
    let prefix = subnet.trim_matches('"').to_owned();
    refused(&lab, "LIP in a connected subnet", &["connected", &directors[1].id, &prefix], || {
        apply(&lab, first, &connected)
    })?;
    for mode in ["dnat", "dsr-l2", "dsr-tunnel"] {
        let text = with(first, None, &listener(&vip, &format!("mode = \"{mode}\"")))?;
        refused(&lab, mode, &[mode, "not"], || apply(&lab, first, &text))?;
    }
    let six = with(first, None, &listener("2001:db8::10", ""))?;
    refused(&lab, "IPv6 listener", &["IPv6", "not"], || apply(&lab, first, &six))?;
    for (key, value) in
        [("toa", "true"), ("proxy-protocol", "\"v2\""), ("scheduler", "\"round-robin\"")]
    {
        let text = with(first, None, &listener(&vip, &format!("{key} = {value}")))?;
        refused(&lab, key, &[key, "not"], || apply(&lab, first, &text))?;
    }
    lab.down()
}

/// Starts a second daemon in a director's namespace and gives how it ended and what it said.
fn daemon(lab: &Lab, director: &Director, text: &str, extra: &[&str]) -> Result<Finished> {
    let file = lab.dir().join("node.toml");
    fs::write(&file, text)?;
    let mut command = lab.command_in(&director.netns, binary("holdfastd"));
    run(command.arg("--config").arg(&file).args(extra), SOON)
}

fn node_file(lab: &Lab, id: &str, director: &Director) -> Result<String> {
    let host = director
        .metrics
        .trim_start_matches("http://")
        .split(':')
        .next()
        .unwrap_or_default()
        .to_owned();
    let interface = lab.interface(&director.netns)?;
    Ok(format!(
        "kind = \"node\"\nid = \"{id}\"\npeer-address = \"{host}:7999\"\ninterface = \"{interface}\"\n\
         data-dir = \"{0}/data\"\nadmin-socket = \"{0}/admin.sock\"\n",
        lab.dir().display()
    ))
}

#[test]
fn nodes_that_must_not_come_or_go() -> Result<()> {
    let lab = Lab::up(3, 1, 1)?;
    let directors = lab.directors()?;
    let (first, last) = (&directors[0], &directors[2]);

    let config = node_file(&lab, "d9", last)?;
    refused(&lab, "unknown key in a node file", &["interfce", "interface"], || {
        daemon(&lab, last, &config.replace("interface", "interfce"), &[])
    })?;
    refused(&lab, "a token that is none", &["token"], || {
        daemon(&lab, last, &config, &["--join", "hfj1-nonsense"])
    })?;

    let added = lab.ask(first, &["node", "add", "d9", "--expires", "1s"])?;
    let expired = added["token"].as_str().context("a token")?.to_owned();
    let issued = Instant::now();
    eventually("the token's second is over", SOON, || {
        ensure!(issued.elapsed() > Duration::from_millis(2_100), "it still lives");
        Ok(())
    })?;
    refused(&lab, "an expired token", &["token", "expired"], || {
        daemon(&lab, last, &config, &["--join", &expired])
    })?;

    refused(&lab, "two directors with one id", &[&directors[1].id], || {
        lab.holdfast(first, &["node", "add", &directors[1].id])
    })?;

    // A drained director may go as far as its traffic is concerned. With another one dead, two of
    // three voters are left; removing one of them ends the quorum.
    let second = &directors[1];
    lab.holdfast(first, &["node", "drain", &second.id])?.ok()?;
    eventually("it is drained", SOON, || {
        let status = lab.ask(first, &["status"])?;
        let nodes = status["cluster"]["nodes"].as_array().context("nodes")?.clone();
        let drained = |n: &Value| n["name"] == *second.id && n["state"] == "drained";
        ensure!(nodes.iter().any(drained), "{nodes:?}");
        Ok(())
    })?;
    run(Command::new("kill").args(["-KILL", &last.daemon.to_string()]), SOON)?.ok()?;
    eventually("the dead one is down", SOON, || {
        let status = lab.ask(first, &["status"])?;
        let nodes = status["cluster"]["nodes"].as_array().context("nodes")?.clone();
        ensure!(nodes.iter().any(|n| n["name"] == *last.id && n["up"] == false), "{nodes:?}");
        Ok(())
    })?;
    let members = || -> Result<Value> {
        let status = lab.ask(first, &["status"])?;
        let nodes = status["cluster"]["nodes"].as_array().context("nodes")?.clone();
        let known = nodes.iter().map(|n| format!("{} {}", n["name"], n["state"])).collect();
        Ok(Value::Array(vec![status["cluster"]["revision"].clone(), known]))
    };
    let before = members()?;
    let refusal = lab.holdfast(first, &["node", "remove", &second.id])?;
    let said = format!("{}{}", refusal.stdout, refusal.stderr);
    assert_eq!(refusal.code, REFUSED_BY_PRECONDITION, "{said}");
    for word in ["there is no quorum", &format!("down: {}", last.id), "after the removal: 1"] {
        ensure!(said.contains(word), "the refusal does not say `{word}`: {said}");
    }
    assert_eq!(members()?, before, "something changed");
    lab.down()
}

#[test]
fn the_last_director_is_not_drained() -> Result<()> {
    let lab = Lab::up(1, 1, 1)?;
    let directors = lab.directors()?;
    let only = &directors[0];
    let code = refused(&lab, "draining the last director", &["last", &only.id], || {
        lab.holdfast(only, &["node", "drain", &only.id])
    })?;
    assert_eq!(code, REFUSED_BY_PRECONDITION);
    let code = refused(&lab, "removing the last director", &[&only.id], || {
        lab.holdfast(only, &["node", "remove", &only.id])
    })?;
    assert_eq!(code, REFUSED_BY_PRECONDITION);
    lab.down()
}

#[test]
fn a_used_token_is_worth_nothing() -> Result<()> {
    let lab = Lab::up(2, 1, 1)?;
    let directors = lab.directors()?;
    let (first, second) = (&directors[0], &directors[1]);
    let token =
        lab.ask(first, &["node", "add", "d9"])?["token"].as_str().context("a token")?.to_owned();
    let file = lab.dir().join("node.toml");
    fs::write(&file, node_file(&lab, "d9", second)?)?;
    // The data interface is taken by the director that lives here, so the newcomer stays a member
    // without traffic; the token is used all the same.
    let mut command = lab.command_in(&second.netns, binary("holdfastd"));
    let newcomer = Background::start(command.arg("--config").arg(&file).args(["--join", &token]))?;
    eventually("d9 is a member", SOON, || {
        let status = lab.ask(first, &["status"])?;
        let nodes = status["cluster"]["nodes"].as_array().context("nodes")?.clone();
        ensure!(nodes.iter().any(|n| n["name"] == "d9"), "{nodes:?}");
        Ok(())
    })?;
    drop(newcomer);
    fs::remove_dir_all(lab.dir().join("data"))?;
    let again = daemon(&lab, second, &node_file(&lab, "d9", second)?, &["--join", &token])?;
    ensure!(again.code != 0, "a used token was taken again");
    let said = format!("{}{}", again.stdout, again.stderr);
    ensure!(said.contains("token"), "{said}");
    lab.down()
}
