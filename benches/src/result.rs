//! Figures: what was measured in each pair, their median, and whether the target is met.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use integration::Result;
use serde_json::json;

/// What a figure must be.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn met(self, value: f64) -> bool {
        match self {
            Target::AtLeast(bound) => value >= bound,
            Target::AtMost(bound) => value <= bound,
        }
    }

    fn text(self) -> String {
        match self {
            Target::AtLeast(bound) => format!(">= {bound}"),
            Target::AtMost(bound) => format!("<= {bound}"),
        }
    }
}

/// One figure of one measure.
#[derive(Clone, Debug)]
pub struct Figure {
    pub name: String,
    pub unit: &'static str,
    pub target: Target,
    /// The figure in each pair; for ratios ours over the baseline's.
    pub values: Vec<f64>,
    /// What the baseline measured, in units of its own.
    pub baselines: Vec<f64>,
    /// What a reader must know to understand the figure.
    pub note: String,
}

/// The median; of an even number the mean of the middle two.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// A number for the table: three digits that say something.
fn short(value: f64) -> String {
    match value.abs() {
        v if !value.is_finite() || v >= 1000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

impl Figure {
    fn value(&self) -> f64 {
        median(&self.values)
    }

    fn is_met(&self) -> bool {
        self.target.met(self.value())
    }

    /// `rows` and `pairs` are what was asked for; measures that have sizes of their own say so in their note.
    fn json(&self, rows: u64, pairs: usize) -> serde_json::Value {
        json!({
            "rows": rows, "pairs": pairs,
            "name": self.name, "value": self.value(), "unit": self.unit, "baseline": median(&self.baselines),
            "target": self.target.text(), "met": self.is_met(), "min": least(&self.values), "max": most(&self.values),
            "values": self.values, "baselines": self.baselines, "note": self.note,
        })
    }

    /// The head of the table.
    #[must_use]
    pub fn head() -> String {
        format!(
            "{:<32} {:>9} {:>9} {:>9} {:>10} {:<5} {}",
            "name", "value", "min", "max", "target", "met", "unit; note"
        )
    }

    /// A row of the table.
    #[must_use]
    pub fn row(&self) -> String {
        format!(
            "{:<32} {:>9} {:>9} {:>9} {:>10} {:<5} {}{}{}",
            self.name,
            short(self.value()),
            short(least(&self.values)),
            short(most(&self.values)),
            self.target.text(),
            if self.is_met() { "yes" } else { "NO" },
            self.unit,
            if self.note.is_empty() { "" } else { "; " },
            self.note,
        )
    }

    /// Adds the figure to the file of raw results, with the sizes that were asked for.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn store(&self, file: &Path, rows: u64, pairs: usize) -> Result<()> {
        if let Some(dir) = file.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut out = OpenOptions::new().create(true).append(true).open(file)?;
        writeln!(out, "{}", self.json(rows, pairs))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_targets() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(Target::AtLeast(1.0).met(1.0) && !Target::AtLeast(1.0).met(0.99));
        assert!(Target::AtMost(1.0).met(1.0) && !Target::AtMost(1.0).met(f64::NAN));
    }
}
