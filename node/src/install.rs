//! `holdfastd --install-rules`: what must be there before the daemon, and stay when it is gone.

use anyhow::Context;
use holdfast_schema::config::NodeSpec;

use crate::netlink::Netlink;
use crate::netlink::rules::{Rules, wanted};
use crate::remembered;

/// Installs the rule, and blackholes for the VIPs and LIPs of the last known configuration. Doing
/// it again changes nothing.
pub async fn rules(spec: &NodeSpec) -> anyhow::Result<()> {
    let Some(announce) = &spec.announce else {
        println!("the node file has no [announce]: no rules are needed");
        return Ok(());
    };
    let netlink = Netlink::open()?;
    let rules = Rules { interface: spec.interface.clone(), table: announce.blackhole_table };
    rules.install_rule(&netlink).await?;
    let known = remembered::read(&spec.data_dir);
    let blackholes = match &known {
        Some(cluster) => wanted(&cluster.vips(), cluster.lips.keys().copied()),
        None => Default::default(),
    };
    if known.is_some() {
        rules.fill(&netlink, &blackholes).await.context("blackholes")?;
    }
    println!(
        "rule: iif {} lookup {}; {} blackholes",
        rules.interface,
        rules.table,
        blackholes.len()
    );
    Ok(())
}
