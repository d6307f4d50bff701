//! The files for exporters in contrib/: each query runs as a role without any right, and together they give what
//! `custodian.metrics` has, with the types that exporters take.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use integration::{Cluster, Result, wait_for_answer};
use postgres::Client;
use postgres::types::Type;

/// One query: its text, the columns that are labels, and the others, each with the name of its measure.
#[derive(Default)]
struct Query {
    text: String,
    labels: Vec<String>,
    values: BTreeMap<String, String>,
}

fn file(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../contrib")
        .join(name);
    Ok(fs::read_to_string(path)?)
}

fn unquoted(text: &str) -> String {
    text.trim().trim_matches('"').to_owned()
}

/// What postgres_exporter makes of its file: a measure is called after the query and the column.
fn of_postgres_exporter(text: &str) -> Vec<Query> {
    let mut queries: Vec<Query> = Vec::new();
    let mut names = BTreeSet::new();
    let (mut name, mut column) = ("", "");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(key) = line.strip_suffix(':').filter(|key| !key.starts_with(' ')) {
            assert!(names.insert(key), "{key} is there twice");
            name = key;
            queries.push(Query::default());
        } else if let Some(last) = queries.last_mut() {
            let line = line.trim();
            if let Some(query) = line.strip_prefix("query: ") {
                last.text = unquoted(query);
            } else if let Some(key) = line.strip_prefix("- ") {
                column = key.trim_end_matches(':');
            } else if let Some(usage) = line.strip_prefix("usage: ") {
                match unquoted(usage).as_str() {
                    "LABEL" => last.labels.push(column.to_owned()),
                    usage => {
                        assert!(matches!(usage, "COUNTER" | "GAUGE"), "{usage}");
                        let measure = format!("{name}_{column}");
                        last.values.insert(column.to_owned(), measure);
                    }
                }
            }
        }
    }
    queries
}

/// What sql_exporter makes of its file.
fn of_sql_exporter(text: &str) -> Vec<Query> {
    let mut queries: Vec<Query> = Vec::new();
    let list = |text: &str| -> Vec<String> {
        let inner = text.trim().trim_matches(['[', ']']);
        inner
            .split(',')
            .map(|item| item.trim().to_owned())
            .collect()
    };
    let mut name = "";
    for line in text.lines().map(str::trim) {
        if let Some(metric) = line.strip_prefix("- metric_name: ") {
            name = metric;
            queries.push(Query::default());
        } else if let Some(last) = queries.last_mut() {
            if let Some(query) = line.strip_prefix("query: ") {
                last.text = unquoted(query);
            } else if let Some(labels) = line.strip_prefix("key_labels: ") {
                last.labels = list(labels);
            } else if let Some(values) = line.strip_prefix("values: ") {
                for value in list(values) {
                    last.values.insert(value, name.to_owned());
                }
            }
        }
    }
    queries
}

/// What the queries give: a measure with its labels, and its value.
type Series = BTreeMap<(String, BTreeMap<String, String>), f64>;

fn exported(client: &mut Client, queries: &[Query]) -> Result<Series> {
    let mut series = Series::new();
    for query in queries {
        for row in client.query(&query.text, &[])? {
            let mut labels = BTreeMap::new();
            for column in row.columns() {
                let name = column.name();
                if query.labels.iter().any(|label| label == name) {
                    assert_eq!(*column.type_(), Type::TEXT, "{}", query.text);
                    labels.insert(name.to_owned(), row.get::<_, String>(name));
                } else {
                    assert_eq!(*column.type_(), Type::FLOAT8, "{}", query.text);
                    assert!(query.values.contains_key(name), "{name}: {}", query.text);
                }
            }
            for (column, measure) in &query.values {
                let key = (measure.clone(), labels.clone());
                let before = series.insert(key, row.get(column.as_str()));
                assert_eq!(before, None, "{measure} is there twice with {labels:?}");
            }
        }
    }
    Ok(series)
}

/// What the view has.
fn all(client: &mut Client) -> Result<Series> {
    let rows = client.query(
        "SELECT name, ARRAY(SELECT key FROM jsonb_each_text(labels) ORDER BY key),
                ARRAY(SELECT value FROM jsonb_each_text(labels) ORDER BY key), value FROM custodian.metrics",
        &[],
    )?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let (keys, values): (Vec<String>, Vec<String>) = (row.get(1), row.get(2));
            let labels = keys.into_iter().zip(values).collect();
            ((row.get(0), labels), row.get(3))
        })
        .collect())
}

/// What `histogram_quantile()` of Prometheus gives for the buckets of a histogram.
fn histogram_quantile(quantile: f64, buckets: &[(f64, f64)]) -> f64 {
    let rank = quantile * buckets.last().map_or(f64::NAN, |last| last.1);
    let at = buckets.iter().position(|bucket| bucket.1 >= rank);
    let at = at.unwrap_or(buckets.len() - 1);
    if buckets[at].0.is_infinite() {
        return buckets[at - 1].0;
    }
    let (start, below) = at.checked_sub(1).map_or((0.0, 0.0), |at| buckets[at]);
    start + (buckets[at].0 - start) * (rank - below) / (buckets[at].1 - below)
}

#[test]
fn exporters_read_every_measure_with_its_labels() -> Result<()> {
    let node = Cluster::builder("exporters")
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = on")
        .conf("custodian.max_disposal_fraction = 1")
        .conf("custodian.max_wal_rate = 16kB")
        .start()?;
    node.exec(
        "CREATE EXTENSION pg_custodian; CREATE ROLE monitor LOGIN;
         CREATE TABLE log (id bigint PRIMARY KEY, body text, at timestamptz NOT NULL);
         INSERT INTO log SELECT n, repeat('x', 500), now() - interval '1 year' FROM generate_series(1, 500) n;
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE division_by_zero; END';
         CREATE TRIGGER refuse BEFORE DELETE ON log FOR EACH ROW WHEN (old.id = 500) EXECUTE FUNCTION refuse();
         SELECT custodian.define_purpose('test.log', 'contract', '100 days');
         SELECT custodian.tag_table('log', clock => 'at', on_expiry => 'delete');
         SELECT custodian.tag_column('log', 'body', 'user.behavior', '{test.log}')",
    )?;
    wait_for_answer(
        &node,
        "SELECT count(*), (SELECT count(*) FROM custodian.quarantined_rows) FROM log",
        "1|1",
    );
    // Nothing changes any more but the time.
    node.exec("SELECT custodian.pause('for the test')")?;
    integration::wait_for_two_rounds(&node);
    let files = [
        of_postgres_exporter(&file("postgres_exporter.yml")?),
        of_sql_exporter(&file("sql_exporter.collector.yml")?),
    ];
    let mut client = node.client_as("monitor", "postgres")?;
    for (at, queries) in files.iter().enumerate() {
        let wanted: Series = all(&mut client)?
            .into_iter()
            .filter(|((name, _), _)| at == 1 || name != "custodian_runs")
            .collect();
        let found = exported(&mut client, queries)?;
        let keys = |series: &Series| series.keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(keys(&found), keys(&wanted));
        for ((name, labels), value) in &wanted {
            // An age is greater each time; a round may have ended meanwhile.
            if !name.ends_with("_age_seconds") && !name.contains("last_success") {
                let same = found.get(&(name.clone(), labels.clone()));
                assert_eq!(same, Some(value), "{name} {labels:?}");
            }
        }
        let mut buckets: Vec<(f64, f64)> = found
            .iter()
            .filter(|((name, _), _)| name == "custodian_batch_duration_seconds_bucket")
            .map(|((_, labels), value)| {
                // As Prometheus reads it.
                let bound = labels.get("le").map_or("", String::as_str);
                let bound = bound.replace("+Inf", "inf").parse();
                (bound.unwrap_or(f64::NAN), *value)
            })
            .collect();
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        assert_eq!(buckets.len(), 10);
        let (median, p95) = (
            histogram_quantile(0.5, &buckets),
            histogram_quantile(0.95, &buckets),
        );
        assert!(
            0.0 < median && median <= p95 && p95 <= 5.0,
            "{median} {p95}"
        );
    }
    Ok(())
}
