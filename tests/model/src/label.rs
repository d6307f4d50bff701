//! The tags of a world as labels: what the extension is told. Names in worlds need no quoting.

use crate::world::{CellTag, Clock, Kind, Reference, Table, Value};

fn strings(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| format!("\"{item}\"")).collect();
    format!("[{}]", quoted.join(","))
}

fn clock(clock: &Clock) -> String {
    let mut steps = clock.over.clone();
    steps.push(clock.column.clone());
    steps.join(".")
}

fn references(member: &str, references: &[Reference], into: &mut Vec<String>) {
    if references.is_empty() {
        return;
    }
    let items: Vec<String> = references
        .iter()
        .map(|reference| match &reference.clock {
            Some(own) => format!(
                r#"{{"name":"{}","clock":"{}"}}"#,
                reference.name,
                clock(own)
            ),
            None => format!(r#"{{"name":"{}"}}"#, reference.name),
        })
        .collect();
    into.push(format!(r#""{member}":[{}]"#, items.join(",")));
}

fn members(tag: &CellTag) -> String {
    let mut members = vec![
        format!(
            r#""category":"{}","sensitivity":"personal""#,
            tag.category.as_deref().unwrap_or("user.content")
        ),
        format!(r#""purposes":{}"#, strings(&tag.purposes)),
    ];
    match &tag.method {
        Some(Value::Text(text)) => members.push(format!(r#""on_expiry":{{"constant":"{text}"}}"#)),
        Some(_) => members.push(r#""on_expiry":"set_null""#.to_owned()),
        None => {}
    }
    if let Some(own) = &tag.clock {
        members.push(format!(r#""clock":"{}""#, clock(own)));
    }
    references("minimums", &tag.minimums, &mut members);
    references("maximums", &tag.maximums, &mut members);
    members.join(",")
}

impl Table {
    /// The label of the table, if its tag says anything.
    pub fn label(&self) -> Option<String> {
        let tag = match &self.own {
            Some(own) => own.tag.as_ref()?,
            None => self.tag.as_ref()?,
        };
        let mut members = Vec::new();
        if let Some(subject) = &tag.subject {
            members.push(format!(
                r#""subject":{{"kind":"{}","{}":{}}}"#,
                subject.kind,
                if subject.via { "via" } else { "key" },
                strings(&subject.columns)
            ));
        }
        if let Some(own) = &tag.clock {
            members.push(format!(r#""clock":"{}""#, clock(own)));
        }
        if tag.not_started {
            members.push(r#""null_clock":"not_started""#.to_owned());
        }
        if let Some(own) = &tag.collected {
            members.push(format!(r#""collected":"{}""#, clock(own)));
        }
        if !tag.dependents.is_empty() {
            let names: Vec<String> = tag
                .dependents
                .iter()
                .map(|name| format!("m.{name}"))
                .collect();
            members.push(format!(r#""dependents":{}"#, strings(&names)));
        }
        if tag.delete {
            members.push(r#""on_expiry":"delete""#.to_owned());
        }
        (!members.is_empty()).then(|| format!("{{{}}}", members.join(",")))
    }

    /// The tagged columns with their labels. Paths inside a document are in the label of its column.
    pub fn column_labels(&self) -> Vec<(String, String)> {
        let mut labels = Vec::new();
        let mut paths: Vec<(String, Vec<String>)> = Vec::new();
        for (name, tag) in self.own_cells() {
            let is_path = self
                .column(name)
                .is_some_and(|column| column.kind == Kind::Path);
            if !is_path {
                labels.push((name.clone(), format!("{{{}}}", members(tag))));
                continue;
            }
            let mut steps = name.split('.').map(str::to_owned);
            let document = steps.next().unwrap_or_default();
            let path: Vec<String> = steps.collect();
            let entry = format!(r#"{{"path":{},{}}}"#, strings(&path), members(tag));
            match paths.iter_mut().find(|(column, _)| *column == document) {
                Some((_, entries)) => entries.push(entry),
                None => paths.push((document, vec![entry])),
            }
        }
        labels.extend(
            paths.into_iter().map(|(column, entries)| {
                (column, format!(r#"{{"paths":[{}]}}"#, entries.join(",")))
            }),
        );
        labels
    }
}
