//! The region guard, channel by channel and peer by peer: {ways out} × {peers} × {warn, on} on real nodes.
//!
//! A cell says what must happen (`rule.rs`, which is written from the design), tries it, and looks at the outcome: the
//! SQLSTATE in the server's log, the event that the gate recorded, and every byte that the peer has got, in which no
//! canary may be. What passes must bring its canary, or the search would prove nothing.
//!
//! `make test` runs pairwise cover: each channel with each kind of peer in one of the modes by turns, by one of the peers
//! of that kind; `make test-matrix` (`CUSTODIAN_MATRIX=all`) runs every cell. `CUSTODIAN_MATRIX='TEXT|TEXT'` runs the cells
//! of the channels and peers whose name has one of these texts.

mod cell;
mod channels;
mod follower;
mod page;
mod peers;
mod rule;
mod stage;
mod traces;

use std::collections::BTreeSet;
use std::process::Command;

use channels::Channel;
use integration::{Net, Result};
use peers::{KINDS, Kind, PEERS, Peer};
use rule::{Expected, Mode, expected};
use stage::Stage;

type Selected = (&'static Channel, &'static Peer);

/// Every cell of a mode.
fn every_cell(mode: Mode) -> Vec<Selected> {
    let pairs = channels::all().flat_map(|channel| PEERS.iter().map(move |peer| (channel, peer)));
    pairs
        .filter(|(channel, peer)| expected(channel, peer, mode) != Expected::NoSuchCell)
        .collect()
}

/// Pairwise cover of channel, kind of peer and mode; the peers of a kind take turns.
fn pairwise(mode: Mode, has_net: bool) -> Vec<Selected> {
    let mut cells = Vec::new();
    for (row, channel) in channels::all().enumerate() {
        for (column, kind) in KINDS.into_iter().enumerate() {
            let turn = if (row + column) % 2 == 0 {
                Mode::On
            } else {
                Mode::Warn
            };
            let peers: Vec<_> = PEERS
                .iter()
                .filter(|peer| peer.kind == kind && (has_net || !peer.needs_net()))
                .filter(|peer| expected(channel, peer, mode) != Expected::NoSuchCell)
                .collect();
            if turn == mode && !peers.is_empty() {
                // Half of the rows are of this mode.
                cells.push((channel, peers[(row / 2) % peers.len()]));
            }
        }
    }
    cells
}

/// The cells to be run, and how many of them need what this machine does not have.
fn selected(mode: Mode) -> (Vec<Selected>, usize) {
    let has_net = Net::available().is_ok();
    let wanted = std::env::var("CUSTODIAN_MATRIX").unwrap_or_default();
    let cells = match wanted.as_str() {
        "" => pairwise(mode, true),
        "all" => every_cell(mode),
        text => every_cell(mode)
            .into_iter()
            .filter(|(channel, peer)| {
                text.split('|')
                    .any(|part| channel.name.contains(part) || peer.name.contains(part))
            })
            .collect(),
    };
    if has_net {
        return (cells, 0);
    }
    // Without namespaces the peers that are known by a certificate, or by nothing, stand for their kinds.
    // A node that no address of its own places has no organisation to tell others from.
    let cannot = |(channel, peer): &Selected| {
        let by_organisation = matches!(channel.asks, channels::Asks::RowsOfEu(_))
            && matches!(peer.kind, Kind::LaneFits | Kind::LaneDiffers);
        peer.needs_net() || peer.kind == Kind::OtherOrganisation || by_organisation
    };
    let missing = cells.iter().filter(|cell| cannot(cell)).count();
    let mut left = match wanted.as_str() {
        "" => pairwise(mode, false),
        _ => cells,
    };
    left.retain(|cell| !cannot(cell));
    (left, missing)
}

fn run(mode: Mode) -> Result<()> {
    if let Err(reason) = Net::available() {
        assert!(
            std::env::var_os("CUSTODIAN_TEST_NEEDS_NET").is_none(),
            "no network namespaces: {reason}"
        );
    }
    let (mut cells, missing) = selected(mode);
    if missing > 0 {
        integration::not_run(&format!(
            "{missing} cells whose peers, or whose node, are known by their network"
        ));
    }
    let stage = Stage::new(mode)?;
    if !stage.has_wal2json {
        integration::not_run("wal2json is not installed");
        cells.retain(|(channel, _)| !channel.name.contains("wal2json"));
    }
    let mut wrong = Vec::new();
    for (at, (channel, peer)) in cells.iter().enumerate() {
        // All cells take hours: what was tried before the run is ended counts.
        if at > 0 && at % 250 == 0 {
            eprintln!(
                "{at} of {} cells in mode {mode:?}, {} wrong",
                cells.len(),
                wrong.len()
            );
        }
        let what = expected(channel, peer, mode);
        let found = cell::attempt(&stage, channel, peer, what)
            .unwrap_or_else(|error| vec![format!("could not be tried: {error}")]);
        for problem in found {
            let line = format!(
                "{} | {} | {:?} | {what:?}: {problem}",
                channel.name, peer.name, peer.kind
            );
            eprintln!("{line}");
            wrong.push(line);
        }
    }
    // Nothing lawful was refused or warned about, whatever else was going on. That somebody copied values to where no tag is
    // is worth a record whoever does it.
    let inside = "SELECT DISTINCT gate || ' ' || role || ' ' || object FROM custodian.guard_events
                  WHERE gate NOT IN ('ddl', 'settings', 'copy') AND role IN ('p_cn', 'p_cert', 'p_local', 'intruder', 'postgres')";
    for event in [stage.inside(inside)?, stage.standby.text(inside)?] {
        if !event.is_empty() {
            wrong.push(format!("the guard objected to somebody inside: {event}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} cells:\n{}",
        wrong.len(),
        cells.len(),
        wrong.join("\n")
    );
    let certified = cells.iter().filter(|(_, peer)| peer.cert.is_some()).count();
    eprintln!(
        "{} cells in mode {mode:?}, {certified} of peers with a certificate",
        cells.len()
    );
    Ok(())
}

#[test]
fn every_channel_is_open_to_whom_it_may_be_and_closed_to_all_others_when_gates_are_on() -> Result<()>
{
    run(Mode::On)
}

#[test]
fn every_channel_passes_in_warn_and_what_on_would_refuse_is_recorded() -> Result<()> {
    run(Mode::Warn)
}

#[test]
fn the_cells_of_each_day_cover_all_pairs() {
    let cells: Vec<_> = [Mode::On, Mode::Warn]
        .into_iter()
        .flat_map(|mode| {
            pairwise(mode, true)
                .into_iter()
                .map(move |(channel, peer)| (channel, peer, mode))
        })
        .collect();
    let mut pairs = BTreeSet::new();
    for (channel, peer, mode) in &cells {
        pairs.insert(format!("{} {:?}", channel.name, peer.kind));
        pairs.insert(format!("{} {mode:?}", channel.name));
        pairs.insert(format!("{} {mode:?}", peer.name));
    }
    for mode in [Mode::On, Mode::Warn] {
        for (channel, peer) in every_cell(mode) {
            for pair in [
                format!("{} {:?}", channel.name, peer.kind),
                format!("{} {mode:?}", channel.name),
                format!("{} {mode:?}", peer.name),
            ] {
                assert!(pairs.contains(&pair), "{pair} is in no cell");
            }
        }
    }
    let all = every_cell(Mode::On).len() + every_cell(Mode::Warn).len();
    assert!(cells.len() * 3 < all, "{} of {all} cells", cells.len());
}

/// Runs cells of some channels as on a machine that gives no network namespaces: their number, that of those with a certificate, and
/// of those that are said to be skipped.
fn without_namespaces(channels: &str) -> Result<[usize; 3]> {
    // Who is no superuser of the machine cannot make any anyway.
    let mut command = match Net::available() {
        Ok(()) => {
            let mut command = Command::new("setpriv");
            command
                .arg("--bounding-set=-sys_admin,-net_admin")
                .arg(std::env::current_exe()?);
            command
        }
        Err(_) => Command::new(std::env::current_exe()?),
    };
    let output = command
        .env("CUSTODIAN_MATRIX", channels)
        .env_remove("CUSTODIAN_TEST_NEEDS_NET")
        .args([
            "--exact",
            "--nocapture",
            "every_channel_is_open_to_whom_it_may_be_and_closed_to_all_others_when_gates_are_on",
        ])
        .output()?;
    let said = [output.stdout, output.stderr]
        .map(|text| String::from_utf8_lossy(&text).into_owned())
        .concat();
    if !output.status.success() {
        return Err(integration::Error::new(said));
    }
    let before = |words: &str| {
        let line = said.lines().find(|line| line.contains(words))?;
        line.split(words)
            .next()?
            .split(' ')
            .next_back()?
            .parse()
            .ok()
    };
    let numbers = [
        before(" cells in mode On"),
        before(" of peers with a certificate"),
        before(" cells whose peers, or whose node, are known by their network"),
    ];
    numbers
        .into_iter()
        .collect::<Option<Vec<usize>>>()
        .and_then(|numbers| numbers.try_into().ok())
        .ok_or_else(|| integration::Error::new(said))
}

#[test]
fn without_namespaces_the_half_of_the_certificates_runs_and_the_rest_is_said_to_be_skipped()
-> Result<()> {
    const CHANNELS: &str = "making its slot|COPY in binary";
    let [run, certified, skipped] = without_namespaces(CHANNELS)?;
    let all: Vec<Selected> = every_cell(Mode::On)
        .into_iter()
        .filter(|(channel, _)| CHANNELS.split('|').any(|part| channel.name.contains(part)))
        .collect();
    let of_certificates = all
        .iter()
        .filter(|(_, peer)| {
            peer.cert.is_some() && !peer.needs_net() && peer.kind != Kind::OtherOrganisation
        })
        .count();
    assert!(of_certificates >= 2 * 5, "{of_certificates}");
    assert_eq!(certified, of_certificates);
    assert_eq!(run + skipped, all.len());
    assert!(skipped > 0 && run > certified, "{run} {skipped}");
    Ok(())
}

#[test]
fn the_page_on_channels_is_what_the_matrix_says() -> Result<()> {
    page::check()
}
