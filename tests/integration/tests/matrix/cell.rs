//! One cell: the attempt, and what is looked at after it.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Command;

use integration::host::WorkDir;
use integration::{Cluster, Error, Output, Place as Namespace, Program, Result, poll};

use crate::channels::{Asks, Brings, Channel, Run};
use crate::peers::{Peer, Place};
use crate::rule::{Expected, arrives};
use crate::stage::Stage;
use crate::traces;

/// What every canary begins with, and every value that a lane may carry.
const CANARY: &str = "canary-";
const CARRIED: &str = "carried-";

/// One attempt by its number, so that each has values of its own.
struct Attempt<'a> {
    stage: &'a Stage,
    channel: &'a Channel,
    peer: &'a Peer,
    dir: WorkDir,
    number: u32,
    lsn: String,
}

impl Attempt<'_> {
    fn target(&self) -> &Cluster {
        match self.channel.of_standby {
            true => &self.stage.standby,
            false => &self.stage.node,
        }
    }

    /// The address at which the peer reaches the node, or the node the peer.
    fn host(&self, node: &Cluster) -> String {
        match (self.peer.place, &self.stage.net) {
            (Place::At(place), Some(net)) if matches!(self.channel.asks, Asks::Destination(_)) => {
                net.at(place).address().to_string()
            }
            (Place::At(_), _) => node.address().unwrap_or_default(),
            (Place::Loopback, _) => "127.0.0.1".to_owned(),
            (Place::Socket, _) => node.socket_dir().display().to_string(),
        }
    }

    fn fill(&self, text: &str) -> String {
        let node = &self.stage.node;
        let slot = match self.peer.role.strip_prefix("lane_") {
            Some(lane) => format!("slot_lane_{lane}"),
            None => "slot_lane_net".to_owned(),
        };
        text.replace("{dir}", &self.dir.path().display().to_string())
            .replace("{card}", &format!("{CANARY}{:04}", self.number))
            .replace("{email}", &format!("{CARRIED}{:04}", self.number))
            .replace("{host}", &self.host(node))
            .replace("{near}", &self.stage.near())
            .replace("{server}", &self.peer.server())
            .replace("{word}", self.peer.kind.word())
            .replace("{slot}", &slot)
            .replace("{lsn}", &self.lsn)
            .replace("{socket}", &node.socket_dir().display().to_string())
            .replace("{port}", &node.port().to_string())
            .replace("{root}", &node.dir().display().to_string())
    }

    /// Puts values of its own where the channels look for them.
    fn prepare(&mut self) -> Result<()> {
        let number = self.number;
        let stage = self.stage;
        stage.inside(&format!(
            "UPDATE customer SET card = '{CANARY}{number:04}', email = '{CARRIED}{number:04}'"
        ))?;
        self.lsn = stage.inside("SELECT pg_current_wal_insert_lsn()")?;
        stage.inside("SELECT pg_logical_emit_message(true, 'matrix', '')")?;
        if !self.channel.before.is_empty() {
            stage.inside(&self.fill(self.channel.before))?;
        }
        if self.channel.of_standby {
            stage.node.wait_for_catchup(&stage.standby, 60)?;
        }
        Ok(())
    }

    fn clean_up(&self) -> Result<()> {
        if !self.channel.after.is_empty() {
            self.stage.inside(&self.fill(self.channel.after))?;
        }
        Ok(())
    }

    /// Makes the attempt, and looks at the outcome.
    fn look(&self, expected: Expected) -> Result<Vec<String>> {
        let (stage, channel, peer) = (self.stage, self.channel, self.peer);
        // DDL and settings are recorded for the role that executes them.
        let events = |outcome: &str| match expected {
            Expected::Warned(gate) | Expected::Refused(gate) => {
                stage.events(channel.of_standby, gate.name(), outcome, peer.role)
            }
            _ => Ok(0),
        };
        let outcome = match expected {
            Expected::Refused(_) => "refused",
            _ => "warned",
        };
        let before = events(outcome)?;
        let silent = matches!(expected, Expected::Passes | Expected::NotAuthenticated);
        let objections = || stage.objections(channel.of_standby, peer.role);
        let unobjected = if silent {
            Some(settled(objections)?)
        } else {
            None
        };
        let log = size(&self.target().log_file());
        let output = self.run()?;
        let mut wrong = Vec::new();
        let said = || log_since(self.target(), log);
        match expected {
            Expected::NoSuchCell => wrong.push("there is no such cell".to_owned()),
            Expected::Passes | Expected::Warned(_) => {
                if !output.success() && !channel.ragged {
                    wrong.push(format!("it failed: {}", brief(&output)));
                }
            }
            Expected::Refused(_) => {
                if output.success() {
                    wrong.push("it was not refused".to_owned());
                }
                wrong.extend(untold(&output, channel.run));
                let refusal = |log: &str| {
                    [" allowed", " would carry "]
                        .iter()
                        .any(|text| has_error(log, "42501", text))
                };
                if poll(10, || refusal(&said().ok()?).then_some(())).is_none() {
                    wrong.push(format!(
                        "no refusal by the guard with SQLSTATE 42501 is in the log: {output}\n{}",
                        said()?
                    ));
                }
            }
            Expected::NotAuthenticated => {
                if output.success() {
                    wrong.push("somebody got in with a wrong password".to_owned());
                }
                if poll(10, || {
                    has_error(&said().ok()?, "28P01", "password authentication failed")
                        .then_some(())
                })
                .is_none()
                {
                    wrong.push(format!(
                        "the server did not refuse the password: {output}\n{}",
                        said()?
                    ));
                }
            }
        }
        if matches!(expected, Expected::Warned(_) | Expected::Refused(_))
            && poll(10, || (events(outcome).ok()? > before).then_some(())).is_none()
        {
            wrong.push(format!("no event \"{outcome}\" of that gate was recorded"));
        }
        // While events are on their way to the ledger they may be counted twice for a moment.
        if let Some(before) = unobjected
            && poll(10, || (objections().ok()? == before).then_some(())).is_none()
        {
            wrong.push("the guard recorded something".to_owned());
        }
        let (canary, carried) = (self.has(CANARY)?, self.has(CARRIED)?);
        match arrives(channel, expected) {
            Brings::Card if !canary => wrong.push(format!(
                "the canary did not arrive: this shows nothing: {output}"
            )),
            Brings::Published if !carried => {
                wrong.push(format!("what the lane carries did not arrive: {output}"))
            }
            Brings::Card | Brings::Nothing | Brings::Published => {}
        }
        let nothing = matches!(expected, Expected::Refused(_) | Expected::NotAuthenticated);
        if canary && (nothing || channel.brings == Brings::Published) {
            wrong.push(format!("THE CANARY ARRIVED: {}", brief(&output)));
        }
        if carried && nothing {
            wrong.push(format!("tagged values arrived: {}", brief(&output)));
        }
        Ok(wrong)
    }

    /// Where the peer runs.
    fn place(&self) -> Option<&Namespace> {
        let net = self.stage.net.as_ref()?;
        match self.peer.place {
            Place::At(place) => Some(net.at(place)),
            Place::Loopback if self.channel.of_standby => Some(net.at("cn-e")),
            Place::Loopback => Some(net.at("cn-a")),
            Place::Socket => None,
        }
    }

    /// A standby that connects as the peer does.
    fn follow(&self) -> Result<Output> {
        let node = self.target();
        let tls = match self.peer.cert {
            Some(region) => {
                let cert = self.stage.certs.client(region, self.peer.role)?;
                format!(
                    "sslmode=verify-ca sslcert={} sslkey={} sslrootcert={}",
                    cert.cert.display(),
                    cert.key.display(),
                    cert.authorities.display()
                )
            }
            None => "sslmode=disable".to_owned(),
        };
        let conninfo = format!(
            "host={} port={} user={} password=wrong {tls}",
            self.host(node),
            node.port(),
            self.peer.role
        );
        let mut follower = self.stage.follower.borrow_mut();
        follower.follow(self.place(), &conninfo, &self.lsn)
    }

    /// A program that connects as the peer does; or as somebody on the node, when it is the node that connects.
    fn program(&self, name: &str) -> Result<Program> {
        let node = self.target();
        let dir = self.dir.path();
        let mut program = Program::new(name, dir)?
            .env("PGPORT", node.port().to_string())
            .database("postgres");
        if matches!(self.channel.asks, Asks::Destination(_) | Asks::Named(_)) {
            return Ok(program.env("PGHOST", node.socket_dir()).role("maker"));
        }
        program = program
            .env("PGHOST", self.host(node))
            .role(self.peer.role)
            .env("PGPASSWORD", "wrong");
        program = match self.peer.cert {
            Some(region) => program.cert(&self.stage.certs.client(region, self.peer.role)?),
            None => program.env("PGSSLMODE", "disable"),
        };
        Ok(program.inside(self.place()))
    }

    fn run(&self) -> Result<Output> {
        let psql = |program: Program| {
            program.args([
                "-X",
                "-A",
                "-t",
                "-q",
                "-v",
                "ON_ERROR_STOP=1",
                "-v",
                "VERBOSITY=verbose",
            ])
        };
        match self.channel.run {
            Run::Sql(sql) => psql(self.program("psql")?).stdin(&self.fill(sql)).run(),
            Run::Replication(sql) => psql(self.program("psql")?)
                .args([
                    "-d",
                    "replication=database dbname=postgres",
                    "-c",
                    &self.fill(sql),
                ])
                .run(),
            Run::Program(name, arguments) => self
                .program(name)?
                .args(arguments.iter().map(|text| self.fill(text)))
                .run(),
            Run::Standby => self.follow(),
        }
    }

    /// Whether values that begin with this, in any form that is searched, are in anything that the peer has: what its programs
    /// wrote, and all files in its directory. A standby has those that it was allowed before, so there only this attempt's count.
    fn has(&self, prefix: &str) -> Result<bool> {
        let (text, place) = match self.channel.run {
            Run::Standby => (
                format!("{prefix}{:04}", self.number),
                self.stage.follower.borrow().data(),
            ),
            _ => (prefix.to_owned(), self.dir.path().to_owned()),
        };
        let forms = traces::of(&text);
        let patterns = || forms.iter().flat_map(|form| ["-e", form.as_str()]);
        // The statements that it was given are its own.
        let files = Command::new("grep")
            .args(["-r", "-q", "-a", "-F", "--exclude=*.stdin"])
            .args(patterns())
            .arg(&place)
            .status()?;
        if found(files)? || matches!(self.channel.run, Run::Standby) {
            return found(files);
        }
        // What is encoded may be broken into lines.
        let joined = "find \"$0\" -type f ! -name '*.stdin' -exec cat {} + | tr -d '\\n' | grep -q -a -F \"$@\"";
        let lines = Command::new("sh")
            .args(["-c", joined])
            .arg(&place)
            .args(patterns())
            .status()?;
        found(lines)
    }
}

/// What grep says.
fn found(status: std::process::ExitStatus) -> Result<bool> {
    match status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => Err(Error::new("grep failed")),
    }
}

/// What is wrong with the way in which a peer was told that it is refused: in one error, with the reason and what to do. A standby
/// says in its log what its primary said, within an error of its own, each time that it tries.
fn untold(output: &Output, run: Run) -> Option<String> {
    let said = output.all();
    let count = |word: &str| said.matches(word).count();
    let errors = count("ERROR:  ") + count("FATAL:  ");
    let (details, hints) = (count("DETAIL:  "), count("HINT:  "));
    let well = match run {
        Run::Standby => details > 0 && errors == 2 * details && hints >= details,
        _ => (errors, details, hints) == (1, 1, 1),
    };
    (!well).then(|| {
        format!(
            "the peer was told in {errors} errors, {details} details and {hints} hints: {}",
            brief(output)
        )
    })
}

/// A count that is the same twice.
fn settled(count: impl Fn() -> Result<u64>) -> Result<u64> {
    let mut last = count()?;
    poll(10, || {
        let now = count().ok()?;
        (std::mem::replace(&mut last, now) == now).then_some(now)
    })
    .ok_or_else(|| Error::new("the count of events does not settle"))
}

/// What the log of a node says from this position on.
fn log_since(node: &Cluster, position: u64) -> Result<String> {
    let mut file = fs::File::open(node.log_file())?;
    file.seek(SeekFrom::Start(position))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Whether the log has an error of this SQLSTATE whose message has this text.
fn has_error(log: &str, sqlstate: &str, text: &str) -> bool {
    log.lines().any(|line| {
        line.contains(&format!("] {sqlstate} "))
            && (line.contains("ERROR:  ") || line.contains("FATAL:  "))
            && line.contains(text)
    })
}

/// Tries a cell. What is wrong with the outcome, if anything is.
pub fn attempt(
    stage: &Stage,
    channel: &Channel,
    peer: &Peer,
    expected: Expected,
) -> Result<Vec<String>> {
    let number = stage.attempts.get() + 1;
    stage.attempts.set(number);
    let mut attempt = Attempt {
        stage,
        channel,
        peer,
        dir: WorkDir::new()?,
        number,
        lsn: String::new(),
    };
    let found = attempt.prepare().and_then(|()| attempt.look(expected));
    // Whatever came of it, the next cell finds what this one found.
    match (found, attempt.clean_up()) {
        (Ok(_), Err(error)) => Err(error),
        (Err(error), Err(other)) => Err(Error::new(format!("{error}; nor cleaned up: {other}"))),
        (found, Ok(())) => found,
    }
}

fn brief(output: &Output) -> String {
    output.to_string().chars().take(600).collect()
}
