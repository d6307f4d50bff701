//! Figures: what was measured in each pair, their median, and whether the target is met.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;

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

/// What all figures of a run have in common.
#[derive(Clone, Debug)]
pub struct Run {
    /// The commit that was built; with `+` where files were changed since.
    pub commit: String,
    pub rows: u64,
}

impl Run {
    /// The commit of these files, for a run over so many rows.
    #[must_use]
    pub fn new(rows: u64) -> Self {
        let git = |words: &[&str]| {
            let output = Command::new("git")
                .arg("-C")
                .arg(env!("CARGO_MANIFEST_DIR"))
                .args(words)
                .output()
                .ok()?;
            let text = String::from_utf8(output.stdout).ok()?;
            output.status.success().then(|| text.trim().to_owned())
        };
        let commit = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
        let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
        let mark = if changed.is_none_or(|files| files.is_empty()) {
            ""
        } else {
            "+"
        };
        Run {
            commit: format!("{commit}{mark}"),
            rows,
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

    /// `rows` is what was asked for; measures that have sizes of their own say so in their note. What was not measured, because
    /// there is no such thing, is left out.
    fn json(&self, run: &Run) -> serde_json::Value {
        let mut figure = json!({
            "commit": run.commit, "rows": run.rows, "pairs": self.values.len(),
            "name": self.name, "unit": self.unit, "target": self.target.text(), "met": self.is_met(),
            "values": self.values, "baselines": self.baselines, "note": self.note,
        });
        let measured = [
            ("value", self.value()),
            ("min", least(&self.values)),
            ("max", most(&self.values)),
            ("baseline", median(&self.baselines)),
        ];
        for (key, value) in measured {
            if value.is_finite() {
                figure[key] = json!(value);
            }
        }
        figure
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

    /// Adds the figure to the file of raw results.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn store(&self, file: &Path, run: &Run) -> Result<()> {
        if let Some(dir) = file.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut out = OpenOptions::new().create(true).append(true).open(file)?;
        writeln!(out, "{}", self.json(run))?;
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

    #[test]
    fn what_was_not_measured_is_left_out() {
        let run = Run {
            commit: "abc".to_owned(),
            rows: 7,
        };
        let mut figure = Figure {
            name: "f".to_owned(),
            unit: "",
            target: Target::AtMost(1.0),
            values: vec![0.5, 0.7],
            baselines: vec![],
            note: String::new(),
        };
        let json = figure.json(&run);
        assert_eq!((&json["commit"], &json["rows"]), (&json!("abc"), &json!(7)));
        assert_eq!((&json["pairs"], &json["met"]), (&json!(2), &json!(true)));
        assert!(json.get("baseline").is_none() && json["value"].is_number());
        figure.values.clear();
        let json = figure.json(&run);
        assert!(json.get("value").is_none() && json.get("min").is_none());
        assert_eq!(json["met"], json!(false));
    }
}
