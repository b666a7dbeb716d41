//! Programs that people use, through the death of the director that carries them: ssh, curl, iperf3.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use holdfast_tests::{Background, Director, Lab, eventually, run, web};

const SOON: Duration = Duration::from_secs(20);

/// The director that forwards the client's side of a connection, by the CLI's word.
fn carrier(lab: &Lab, client: &str) -> Result<Director> {
    let directors = lab.directors()?;
    let ask = directors.first().context("a lab has directors")?;
    let shown = lab.ask(ask, &["session", "list", "--client", client])?;
    let entry = shown["sessions"].get(0).with_context(|| format!("no session of {client}"))?;
    if entry["replicated"] != serde_json::Value::Bool(true) {
        bail!("the session of {client} is not replicated yet");
    }
    let name = entry["director"].as_str().context("a session has a director")?;
    directors.iter().find(|d| d.id == name).cloned().with_context(|| format!("no director {name}"))
}

/// Adds a group of one backend and a listener for it, as an operator would.
fn listen(lab: &Lab, name: &str, vip: &str, port: &str, backend: &str) -> Result<()> {
    let directors = lab.directors()?;
    let director = &directors[0];
    lab.holdfast(director, &["group", "add", name])?.ok()?;
    lab.holdfast(director, &["backend", "add", name, "b1", backend])?.ok()?;
    let listener = [
        "listener",
        "add",
        name,
        "--vip",
        vip,
        "--port",
        port,
        "--protocol",
        "tcp",
        "--group",
        name,
    ];
    lab.holdfast(director, &listener)?.ok()?;
    Ok(())
}

struct Keys {
    host: PathBuf,
    user: PathBuf,
}

fn make_keys(dir: &Path) -> Result<Keys> {
    let make = |name: &str| -> Result<PathBuf> {
        let path = dir.join(name);
        run(
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path),
            SOON,
        )?
        .ok()?;
        Ok(path)
    };
    let keys = Keys { host: make("host_key")?, user: make("user_key")? };
    fs::copy(keys.user.with_extension("pub"), dir.join("authorized_keys"))?;
    Ok(keys)
}

fn sshd(lab: &Lab, netns: &str, addr: &str, keys: &Keys) -> Result<Background> {
    let dir = lab.dir();
    let config = dir.join("sshd_config");
    fs::write(
        &config,
        format!(
            "ListenAddress {addr}:2222\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             UsePAM no\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\n",
            keys.host.display(),
            dir.join("authorized_keys").display()
        ),
    )?;
    // sshd wants a folder in /run. The namespace's mounts are its own, so this one is not the machine's.
    let mut command = lab.command_in(netns, "sh");
    let start =
        "mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec /usr/sbin/sshd -D -e -f \"$0\"";
    let mut sshd = Background::start(command.arg("-c").arg(start).arg(config))?;
    sshd.line(SOON, |line| line.contains("Server listening").then_some(()))?;
    Ok(sshd)
}

fn ssh(lab: &Lab, netns: &str, vip: &str, keys: &Keys) -> Command {
    let mut command = lab.command_in(netns, "ssh");
    command
        .args(["-tt", "-p", "22", "-i"])
        .arg(&keys.user)
        .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
        .args(["-o", "LogLevel=ERROR", "-o", "ServerAliveInterval=0"])
        .arg(format!("root@{vip}"))
        .arg("exec sh");
    command
}

/// The client's address and port of the oldest connection to this VIP and port in a namespace.
fn client_of(lab: &Lab, netns: &str, vip: &str, port: u16) -> Result<String> {
    let mut ss = lab.command_in(netns, "ss");
    ss.args(["-Htn", "state", "established", "dst"]).arg(format!("{vip}:{port}"));
    let text = run(&mut ss, SOON)?.ok()?;
    let line = text.lines().next().with_context(|| format!("no connection to {vip}:{port}"))?;
    Ok(line.split_whitespace().nth(2).with_context(|| format!("ss says {line}"))?.to_owned())
}

/// The pid in `WORD:PID:`; the terminal's echo of the command (`WORD:$$:`) does not match.
fn shell_pid(line: &str, word: &str) -> Option<u32> {
    let rest = &line[line.find(&format!("{word}:"))? + word.len() + 1..];
    rest.split(':').next()?.parse().ok()
}

#[test]
fn ssh_curl_and_iperf3_outlive_their_director() -> Result<()> {
    let lab = Lab::up(3, 2, 1)?;
    let (client, backend) = (lab.text("/clients/0/netns")?, lab.text("/backends/0/netns")?);
    let (vip, addr) = (lab.text("/spare_vips/0")?, lab.text("/backends/0/addr")?);
    let keys = make_keys(lab.dir())?;

    let _sshd = sshd(&lab, &backend, &addr, &keys)?;
    let mut iperf_server = lab.command_in(&backend, "iperf3");
    let _iperf = Background::start(iperf_server.args(["-s", "-B", &addr, "-p", "5201"]))?;
    let www = lab.dir().join("www");
    fs::create_dir(&www)?;
    let file = www.join("large");
    run(
        Command::new("dd")
            .args(["if=/dev/urandom", "bs=1M", "count=256", "status=none"])
            .arg(format!("of={}", file.display())),
        SOON,
    )?
    .ok()?;
    let _nginx = web::nginx(&lab, &backend, &www, &addr, 8081, "limit_rate 16m;")?;
    listen(&lab, "ssh", &vip, "22", &format!("{addr}:2222"))?;
    listen(&lab, "iperf", &vip, "5201", &format!("{addr}:5201"))?;
    listen(&lab, "files", &vip, "8081", &format!("{addr}:8081"))?;

    // The first connection also waits for routes and health checks.
    let mut shell = eventually("ssh connects", Duration::from_secs(30), || {
        let mut shell = Background::start(&mut ssh(&lab, &client, &vip, &keys))?;
        shell.type_line("echo ready-$((40+2))")?;
        shell.line(Duration::from_secs(5), |l| l.contains("ready-42").then_some(()))?;
        Ok(shell)
    })?;
    shell.type_line("echo before:$$:")?;
    let before = shell.line(SOON, |l| shell_pid(l, "before"))?;

    let got = lab.dir().join("got");
    let mut curl = Background::start(
        lab.command_in(&client, "curl")
            .args(["-sS", "--fail", "-o"])
            .arg(&got)
            .arg(format!("http://{vip}:8081/large")),
    )?;
    let mut iperf_client = lab.command_in(&client, "iperf3");
    let mut iperf = Background::start(iperf_client.args([
        "-c",
        &vip,
        "-t",
        "14",
        "-b",
        "40M",
        "--forceflush",
    ]))?;

    let port = client_of(&lab, &client, &vip, 22)?;
    let victim = eventually("the session is replicated", SOON, || carrier(&lab, &port))?;
    eventually("downloads and streams are old enough", SOON, || {
        for service in [8081, 5201] {
            carrier(&lab, &client_of(&lab, &client, &vip, service)?)?;
        }
        Ok(())
    })?;
    run(Command::new("kill").args(["-KILL", &victim.daemon.to_string()]), SOON)?.ok()?;

    shell.type_line("echo after:$$:")?;
    let after = shell.line(SOON, |l| shell_pid(l, "after"))?;
    assert_eq!(before, after, "the line after the crash reached another shell");
    let survivor = lab
        .directors()?
        .into_iter()
        .find(|d| d.id != victim.id)
        .context("a lab of three has a survivor")?;
    eventually("the CLI names the new carrier", SOON, || {
        let shown = lab.ask(&survivor, &["session", "list", "--client", &port])?;
        match shown["sessions"][0]["director"].as_str() {
            Some(name) if name != victim.id => Ok(()),
            other => bail!("the session is at {other:?}"),
        }
    })?;

    assert_eq!(curl.wait(Duration::from_secs(60))?, 0, "curl failed");
    assert_eq!(fs::read(&got)?, fs::read(&file)?, "the download is damaged");
    assert_eq!(iperf.wait(Duration::from_secs(60))?, 0, "iperf3 failed");
    drop(shell);
    lab.down()
}
