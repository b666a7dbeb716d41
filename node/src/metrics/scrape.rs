//! One scrape: values against the definitions, written as text.

use std::collections::BTreeMap;

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Encoder, TextEncoder};

use super::names::{Definition, Kind};

/// Values collected for one answer.
pub struct Scrape {
    definitions: BTreeMap<String, Definition>,
    families: BTreeMap<String, MetricFamily>,
}

impl Scrape {
    /// Empty, for these metrics.
    pub fn new(definitions: Vec<Definition>) -> Scrape {
        let definitions = definitions.into_iter().map(|d| (d.name.clone(), d)).collect();
        Scrape { definitions, families: BTreeMap::new() }
    }

    fn add(&mut self, name: &str, labels: &[&str], metric: Metric) {
        let definition = self.definitions.get(name);
        debug_assert!(
            definition.is_some_and(|d| d.labels.len() == labels.len()),
            "{name} with {} labels is not defined",
            labels.len()
        );
        let Some(definition) = definition else { return };
        let family = self.families.entry(name.to_owned()).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(definition.name.clone());
            family.set_help(definition.help.clone());
            family.set_field_type(match definition.kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge => MetricType::GAUGE,
                Kind::Histogram => MetricType::HISTOGRAM,
            });
            family
        });
        let mut metric = metric;
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        metric.set_label(definition.labels.iter().zip(labels).map(pair).collect());
        family.mut_metric().push(metric);
    }

    /// A number, of the kind that the metric is defined with.
    pub fn put(&mut self, name: &str, labels: &[&str], value: f64) {
        let mut metric = Metric::default();
        match self.definitions.get(name).map(|d| d.kind) {
            Some(Kind::Counter) => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            _ => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.add(name, labels, metric);
    }

    /// A count.
    pub fn count(&mut self, name: &str, labels: &[&str], value: u64) {
        self.put(name, labels, value as f64);
    }

    /// A yes or no.
    pub fn flag(&mut self, name: &str, labels: &[&str], value: bool) {
        self.put(name, labels, f64::from(u8::from(value)));
    }

    /// A histogram: upper bounds with the observations in each bucket (the last has no bound).
    pub fn histogram(&mut self, name: &str, bounds: &[f64], buckets: &[u64], sum: f64) {
        let mut cumulative = 0;
        let mut rows = Vec::new();
        for (bound, n) in bounds.iter().zip(buckets) {
            cumulative += n;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(cumulative);
            rows.push(bucket);
        }
        let mut histogram = Histogram::default();
        histogram.set_bucket(rows);
        histogram.set_sample_count(buckets.iter().sum());
        histogram.set_sample_sum(sum);
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        self.add(name, &[], metric);
    }

    /// The text format, with further families behind it.
    pub fn text(self, more: Vec<MetricFamily>) -> prometheus::Result<String> {
        let families: Vec<MetricFamily> = self.families.into_values().chain(more).collect();
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::names;

    #[test]
    fn values_come_out_with_labels_and_kinds() {
        let mut scrape = Scrape::new(names::all());
        scrape.count("holdfast_packets_total", &["to_client"], 7);
        scrape.flag("holdfast_ready", &[], true);
        scrape.histogram("holdfast_store_commit_seconds", &[0.001, 0.01], &[1, 2, 3], 0.5);
        let text = scrape.text(Vec::new()).unwrap();
        for line in [
            "# TYPE holdfast_packets_total counter",
            "holdfast_packets_total{direction=\"to_client\"} 7",
            "holdfast_ready 1",
            "holdfast_store_commit_seconds_bucket{le=\"0.01\"} 3",
            "holdfast_store_commit_seconds_bucket{le=\"+Inf\"} 6",
            "holdfast_store_commit_seconds_count 6",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
    }
}
