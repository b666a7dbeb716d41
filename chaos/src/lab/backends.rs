//! What runs on the backends: our own servers, and an nginx for the downloads.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

use super::plan::{LIP_POOL, Plan, Site, VIPS};
use super::spawn::{Priority, spawn};
use crate::command::{SOON, in_netns, run};
use crate::scenario::wait::until;

/// Port of the echo service (TCP), on VIP and backends.
pub const ECHO_PORT: u16 = 7001;
/// Port of the drip service (TCP), on VIP and backends.
pub const DRIP_PORT: u16 = 7002;
/// Port of the UDP service, on VIP and backends.
pub const UDP_PORT: u16 = 7004;
/// Port of nginx on the VIP.
pub const BULK_PORT: u16 = 80;
/// Port of nginx on the backends.
const NGINX_PORT: u16 = 8080;
/// What a download is paced to.
pub const BULK_RATE: u64 = 64 << 10;
/// Size of a download: it takes 44 seconds, which outlasts a step.
pub const BULK_SIZE: usize = 44 * BULK_RATE as usize;
/// Path of the download.
pub const BULK_PATH: &str = "/bulk.bin";

/// The file that nginx serves.
pub fn bulk_file(plan: &Plan) -> PathBuf {
    plan.dir().join("www").join("bulk.bin")
}

/// The groups that all backends are in.
pub const GROUPS: [&str; 4] = ["echo", "drip", "bulk", "udp"];

/// Starts the servers on every backend and waits until they listen.
pub async fn start(plan: &Plan) -> Result<()> {
    let file = bulk_file(plan);
    let www = file.parent().context("the file is in a folder")?.to_owned();
    std::fs::create_dir_all(&www)?;
    let mut bytes = vec![0; BULK_SIZE];
    SmallRng::seed_from_u64(u64::from(plan.owner.0)).fill_bytes(&mut bytes);
    std::fs::write(&file, &bytes)?;
    for site in plan.backends() {
        start_own(plan, site).await?;
        start_nginx(plan, site, &www.display().to_string()).await?;
    }
    for site in plan.backends() {
        for port in [ECHO_PORT, NGINX_PORT] {
            listening(plan, site, port).await?;
        }
    }
    Ok(())
}

/// Starts our own servers on one more machine, and waits until they listen.
pub async fn serve(plan: &Plan, site: Site) -> Result<()> {
    start_own(plan, site).await?;
    listening(plan, site, ECHO_PORT).await
}

async fn start_own(plan: &Plan, site: Site) -> Result<()> {
    let me = std::env::current_exe().context("the path of this program")?.display().to_string();
    let (name, netns, addr) = (site.name(), plan.netns(site), site.addr().to_string());
    let log = plan.file(&name, "backend.log");
    let argv = [me.as_str(), "backend", "--name", &name, "--address", &addr];
    spawn(&netns, &argv, Priority::Normal, &log, &[]).await.map(|_| ())
}

async fn start_nginx(plan: &Plan, site: Site, www: &str) -> Result<()> {
    let (name, addr) = (site.name(), site.addr());
    let dir = plan.dir().join(&name).join("nginx");
    std::fs::create_dir_all(&dir)?;
    let here = dir.display();
    // Debian's nginx is built to keep its temporary folders in /var/lib; none of them is made
    // where the configuration names another.
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("  {kind}_temp_path {here}/{kind};\n"))
        .collect();
    let text = format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {here}/pid;\nlock_file {here}/lock;\n\
         error_log {here}/error.log;\nevents {{ worker_connections 1024; }}\n\
         http {{\n  access_log off;\n{temp}  server {{\n    listen {addr}:{NGINX_PORT};\n    \
         root {www};\n    limit_rate {BULK_RATE};\n    add_header X-Backend {name};\n  }}\n}}\n"
    );
    let config = plan.file(&name, "nginx.conf");
    std::fs::write(&config, text)?;
    let error_log = format!("{here}/error.log");
    let argv = ["nginx", "-e", &error_log, "-c", &config.display().to_string()];
    let log = plan.file(&name, "nginx.out");
    spawn(&plan.netns(site), &argv, Priority::Normal, &log, &[]).await?;
    Ok(())
}

async fn listening(plan: &Plan, site: Site, port: u16) -> Result<()> {
    let netns = plan.netns(site);
    until(&format!("{} listens on port {port}", site.name()), SOON, async || {
        let filter = format!("sport = :{port}");
        let said = run(&in_netns(&netns, &["ss", "-Hltn", &filter])).await?;
        ensure!(!said.trim().is_empty(), "nobody listens; logs are in {}", plan.dir().display());
        Ok(())
    })
    .await
}

/// What `holdfast apply` gets: a listener and a group for each service.
pub fn cluster_file(plan: &Plan) -> String {
    let [echo, drip, bulk, udp] = GROUPS;
    let services = [
        (echo, VIPS[0], ECHO_PORT, ECHO_PORT, "tcp"),
        (drip, VIPS[0], DRIP_PORT, DRIP_PORT, "tcp"),
        (bulk, VIPS[0], BULK_PORT, NGINX_PORT, "tcp"),
        (udp, VIPS[1], UDP_PORT, UDP_PORT, "udp"),
    ];
    let mut text =
        format!("kind = \"cluster\"\nlip-pool = [\"{LIP_POOL}\"]\nlips-per-director = 2\n");
    for (name, vip, port, backend_port, protocol) in services {
        // UDP has no handshake to check; the same process serves TCP on another port.
        let check = if protocol == "udp" { ECHO_PORT } else { backend_port };
        write!(
            text,
            "\n[[listener]]\nname = \"{name}\"\nvip = \"{vip}\"\nport = {port}\n\
             protocol = \"{protocol}\"\ngroup = \"{name}\"\nreplicate-after = \"{}\"\n\n\
             [[group]]\nname = \"{name}\"\n\
             health = {{ type = \"tcp\", port = {check}, interval = \"1s\", timeout = \"900ms\", \
             rise = 1, fall = 5 }}\n",
            plan.replicate_after
        )
        .ok();
        for site in plan.backends() {
            let (backend, addr) = (site.name(), site.addr());
            write!(
                text,
                "\n[[group.backend]]\nname = \"{backend}\"\naddress = \"{addr}:{backend_port}\"\n"
            )
            .ok();
        }
    }
    text
}
