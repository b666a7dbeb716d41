//! Debian's Prometheus scrapes the lab, and what it counts agrees with what the clients saw.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_tests::{Background, Lab, eventually, run, web};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);
const REQUESTS: u64 = 200;

/// Asks Prometheus for one number: the value of an expression that yields a single sample.
fn number(lab: &Lab, netns: &str, expression: &str) -> Result<f64> {
    let mut curl = lab.command_in(netns, "curl");
    curl.args(["-sS", "--fail", "--get", "http://127.0.0.1:9090/api/v1/query"])
        .arg("--data-urlencode")
        .arg(format!("query={expression}"));
    let answer: Value = serde_json::from_str(&run(&mut curl, SOON)?.ok()?)?;
    let value = answer["data"]["result"][0]["value"][1].as_str();
    Ok(value.with_context(|| format!("{expression} gave {answer}"))?.parse()?)
}

#[test]
fn counters_agree_with_the_clients() -> Result<()> {
    let lab = Lab::up(3, 1, 1)?;
    let (client, backend) = (lab.text("/clients/0/netns")?, lab.text("/backends/0/netns")?);
    let (vip, addr) = (lab.text("/spare_vips/0")?, lab.text("/backends/0/addr")?);
    let router = lab.text("/routers/0/netns")?;
    let directors = lab.directors()?;

    let config = lab.dir().join("prometheus.yml");
    let targets: Vec<String> = directors
        .iter()
        .map(|d| {
            let host = d.metrics.trim_start_matches("http://");
            format!("'{}'", host.split('/').next().unwrap_or(host))
        })
        .collect();
    fs::write(
        &config,
        format!(
            "global: {{ scrape_interval: 1s }}\nscrape_configs:\n  - job_name: holdfast\n    \
             static_configs: [ {{ targets: [{}] }} ]\n",
            targets.join(", ")
        ),
    )?;
    let mut command = lab.command_in(&router, "prometheus");
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", lab.dir().join("tsdb").display()))
        .arg("--web.listen-address=127.0.0.1:9090");
    let _prometheus = Background::start(&mut command)?;
    eventually("all directors are scraped", SOON, || {
        let up = number(&lab, &router, "sum(up{job=\"holdfast\"})")?;
        ensure!(up == directors.len() as f64, "{up} directors are up");
        Ok(())
    })?;

    let www = lab.dir().join("www");
    fs::create_dir(&www)?;
    fs::write(www.join("page"), vec![b'x'; 20_000])?;
    let _server = web::nginx(&lab, &backend, &www, &addr, 8000, "")?;
    let first = &directors[0];
    lab.holdfast(first, &["group", "add", "pages"])?.ok()?;
    lab.holdfast(first, &["backend", "add", "pages", "b1", &format!("{addr}:8000")])?.ok()?;
    let listener = [
        "listener",
        "add",
        "pages",
        "--vip",
        &vip,
        "--port",
        "80",
        "--protocol",
        "tcp",
        "--group",
        "pages",
    ];
    lab.holdfast(first, &listener)?.ok()?;
    let fetch = |times: u64| -> Result<u64> {
        let mut curl = lab.command_in(&client, "curl");
        curl.args([
            "-sS",
            "--no-keepalive",
            "-H",
            "Connection: close",
            "-w",
            "%{http_code}\n",
            "-o",
            "/dev/null",
        ])
        .arg(format!("http://{vip}/page?[1-{times}]"));
        let text = run(&mut curl, Duration::from_secs(60))?.ok()?;
        Ok(text.lines().filter(|l| l.ends_with("200")).count() as u64)
    };
    let mut served = 0;
    eventually("the page is served", SOON, || {
        served += fetch(1)?;
        ensure!(served == 1, "no page");
        Ok(())
    })?;

    // The directors publish when it suits them and Prometheus asks once a second: wait for the value
    // that has to come. More than that never goes away again.
    let of_pages = |metric: &str, labels: &str| -> Result<f64> {
        number(&lab, &router, &format!("sum({metric}{{{labels}}})"))
    };
    let opened = || of_pages("holdfast_sessions_opened_total", "protocol=\"tcp\"");
    let bytes = || of_pages("holdfast_bytes_total", "direction=\"to_client\"");
    let body = 20_000.0;
    eventually("the first page is counted", SOON, || {
        let (sessions, bytes) = (opened()?, bytes()?);
        ensure!(sessions >= 1.0 && bytes > body, "{sessions} sessions, {bytes} bytes");
        Ok(())
    })?;
    let (sessions_before, bytes_before) = (opened()?, bytes()?);
    ensure!(fetch(REQUESTS)? == REQUESTS, "a request failed");
    let requests = REQUESTS as f64;
    eventually("every request is counted", SOON, || {
        let (sessions, bytes) = (opened()? - sessions_before, bytes()? - bytes_before);
        ensure!(sessions == requests, "{sessions} sessions for {requests} requests");
        ensure!(
            bytes > body * requests && bytes < body * requests * 1.2,
            "clients got {} bytes, directors counted {bytes}",
            body * requests
        );
        Ok(())
    })?;
    lab.down()
}
