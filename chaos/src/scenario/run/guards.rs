//! How often guards let go, read from the directors' metrics around each step.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::Run;
use crate::admin::sum_of;
use crate::command::{in_netns, run as tool};
use crate::lab::plan::{METRICS_PORT, Site};
use crate::scenario::inject::Effect;
use crate::scenario::releases::{Reading, Since};
use crate::scenario::steps::StepName;

impl Run {
    /// How often each guard has let go so far, commands of its own daemon left out. All metrics are
    /// kept beside the logs, under the name of the moment.
    pub(super) async fn read_releases(&self, moment: &str) -> Reading {
        let mut all = Reading::new();
        for site in self.plan.directors() {
            all.insert(site, self.releases_of(site, moment).await.ok());
        }
        all
    }

    async fn releases_of(&self, site: Site, moment: &str) -> Result<u64> {
        let me = std::env::current_exe()?.display().to_string();
        let address = SocketAddr::from((site.addr(), METRICS_PORT)).to_string();
        let argv = in_netns(&self.plan.router(), &[&me, "fetch", &address, "/metrics"]);
        let text = tool(&argv).await?;
        std::fs::write(self.plan.file(&site.name(), &format!("{moment}.prom")), &text)?;
        let sum = sum_of(&text, "holdfast_guard_releases_total", Some("reason=\"command\""));
        Ok(sum.context("no such metric")? as u64)
    }

    /// Counts releases since the last reading where no fault excuses them. A step answers for them
    /// until the next one begins.
    pub(super) async fn releases_until_now(&mut self, moment: &str) {
        let mut reading = self.read_releases(moment).await;
        // A newcomer has a machine, but no daemon yet.
        reading.retain(|site, now| now.is_some() || self.releases.knows(*site));
        let Since { count, doubts } = self.releases.since(&reading, &[]);
        let needless = count.values().sum::<u64>();
        match self.facts.last_mut() {
            None => self.releases_before += needless,
            Some(facts) => {
                facts.guard_releases += needless;
                facts.missing.extend(doubts);
            }
        }
    }

    /// The last reading, after everything.
    pub async fn read_releases_to_the_end(&mut self) {
        self.releases_until_now("end").await;
    }

    /// Counts releases since the step began: needless ones, and those because of the fault.
    pub(super) async fn releases_in_step(
        &mut self,
        step: StepName,
        targets: &[Site],
        effect: &mut Effect,
    ) -> (u64, u64) {
        let mut restarted = std::mem::take(&mut self.restarted);
        if step.restarts() && self.settings.inject {
            restarted.extend(targets);
        }
        let reading = self.read_releases(&format!("{}-after", step.name())).await;
        let Since { mut count, doubts } = self.releases.since(&reading, &restarted);
        effect.missing.extend(doubts);
        let frozen = matches!(step, StepName::HangDaemon | StepName::FreezeFollower);
        let hung = targets.iter().filter(|_| frozen).filter_map(|t| count.remove(t)).sum();
        (count.values().sum(), hung)
    }
}
