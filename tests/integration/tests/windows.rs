//! When the scheduler's sweeps may run: in daily windows, for so many rows a day; and what is said while they wait.

use std::time::{SystemTime, UNIX_EPOCH};

use integration::{Cluster, MovedClock, Result, Sql, wait_for_answer};

const LOG: &str = "
    CREATE EXTENSION pg_custodian;
    CREATE TABLE log (id bigint PRIMARY KEY, body text, at timestamptz NOT NULL);
    ALTER TABLE log ALTER body SET STORAGE PLAIN;
    INSERT INTO log SELECT n, repeat('x', 3000), now() - interval '1 year' FROM generate_series(1, 600) n;
    SELECT custodian.define_purpose('test.log', 'contract', '100 days');
    SELECT custodian.tag_table('log', clock => 'at', on_expiry => 'delete');
    SELECT custodian.tag_column('log', 'body', 'user.behavior', '{test.log}')";

/// A cluster where it is noon, in UTC: days and windows begin and end while tests run only where these have them do. The
/// clock goes with it.
fn at_noon(name: &str, conf: &[&str]) -> Result<(Cluster, MovedClock)> {
    let clock = MovedClock::new()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let into_the_day = now.map_err(|error| error.to_string())?.as_secs() % 86_400;
    clock.set(43_200 - into_the_day.cast_signed())?;
    let mut builder = Cluster::builder(name)
        .preload("pg_custodian")
        .conf("custodian.naptime = 1s")
        .conf("custodian.disposal = on");
    for line in conf {
        builder = builder.conf(line);
    }
    for (name, value) in clock.env() {
        builder = builder.env(name, &value);
    }
    Ok((builder.start()?, clock))
}

/// A window of the time zone of Shanghai, from `from` to `to` hours from now.
fn window(node: &Cluster, from: i32, to: i32) -> Result<String> {
    node.text(&format!(
        "SELECT to_char(s + {from} * interval '1 hour', 'HH24:MI') || '-' || to_char(s + {to} * interval '1 hour', 'HH24:MI')
                || ' Asia/Shanghai'
         FROM (SELECT now() AT TIME ZONE 'Asia/Shanghai' AS s) now"
    ))
}

#[test]
fn sweeps_wait_for_their_window_say_until_when_and_a_reload_opens_another() -> Result<()> {
    let (node, _clock) = at_noon("windows", &["custodian.max_disposal_fraction = 0.5"])?;
    let later = window(&node, 3, 5)?;
    node.alter_system("custodian.windows", &later)?;
    node.exec(LOG)?;
    // Whether somebody must approve is asked at any time.
    wait_for_answer(&node, "SELECT state FROM custodian.runs", "waiting");
    node.alter_system("custodian.max_disposal_fraction", "1")?;
    // What is said names the hour at which the window opens.
    let opening = node.text(&format!(
        "SELECT to_char((s::date + split_part('{later}', '-', 1)::time
                         + CASE WHEN split_part('{later}', '-', 1)::time < s::time THEN interval '1 day' ELSE '0' END)
                        AT TIME ZONE 'Asia/Shanghai' AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')
         FROM (SELECT now() AT TIME ZONE 'Asia/Shanghai' AS s) now"
    ))?;
    wait_for_answer(
        &node,
        "SELECT relation, state, rows_planned, rows_done, waits_for FROM custodian.progress",
        &format!("log|observed|600|0|custodian.windows, until {opening} UTC"),
    );
    assert_eq!(
        node.text("SELECT why FROM custodian.overdue")?,
        format!("waits for custodian.windows, until {opening} UTC")
    );
    assert_eq!(node.text("SELECT count(*) FROM log")?, "600");

    // What is no window is refused, and changes nothing.
    let mut client = node.client()?;
    let refused =
        client.refused("ALTER SYSTEM SET custodian.windows = '01:00-05:00 Asia/Shanghigh'");
    assert_eq!(refused.sqlstate(), "22023");
    assert!(refused.to_string().contains("no time zone"), "{refused:?}");

    // A sweep that somebody asks for waits for no window.
    node.exec("INSERT INTO log SELECT n, 'x', now() FROM generate_series(601, 700) n")?;
    let mut other = node.client()?;
    other.text("CALL custodian.sweep('log')")?;
    wait_for_answer(&node, "SELECT count(*) FROM log", "100");
    wait_for_answer(&node, "SELECT count(*) FROM custodian.progress", "0");

    node.exec(
        "INSERT INTO log SELECT n, 'x', now() - interval '1 year' FROM generate_series(701, 750) n",
    )?;
    wait_for_answer(&node, "SELECT rows_planned FROM custodian.progress", "50");
    let now = window(&node, -1, 1)?;
    node.alter_system("custodian.windows", &format!("{later}, {now}"))?;
    wait_for_answer(&node, "SELECT count(*) FROM log", "100");
    wait_for_answer(&node, "SELECT count(*) FROM custodian.progress", "0");
    Ok(())
}

#[test]
fn a_window_that_closes_or_disposal_that_is_set_back_ends_a_sweep_which_goes_on_later() -> Result<()>
{
    let (node, _clock) = at_noon(
        "closes",
        &[
            "custodian.max_disposal_fraction = 1",
            "custodian.batch_target = 1ms",
        ],
    )?;
    let (now, later) = (window(&node, -1, 1)?, window(&node, 3, 5)?);
    node.alter_system("custodian.windows", &now)?;
    // Each row takes a while, so that the sweep is under way. Each sweep begins with a batch of 256 rows.
    node.exec(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.01); RETURN old; END'",
    )?;
    node.exec(&LOG.replace("600", "3000").replace(
        "SELECT custodian.define_purpose",
        "CREATE TRIGGER slow BEFORE DELETE ON log FOR EACH ROW EXECUTE FUNCTION slow();
         SELECT custodian.define_purpose",
    ))?;
    const UNDER_WAY: &str = "SELECT state, rows_done > 0 AND rows_done < 3000 FROM custodian.runs";
    wait_for_answer(&node, UNDER_WAY, "running|t");
    // So do the setting that stops disposal, and the table's tag.
    let ended = "SELECT state, reason, rows_done < 3000 FROM custodian.runs";
    node.alter_system("custodian.disposal", "off")?;
    wait_for_answer(&node, ended, "interrupted|custodian.disposal|t");
    node.alter_system("custodian.disposal", "on")?;
    wait_for_answer(&node, UNDER_WAY, "running|t");
    let tag = |mode| {
        format!(
            "SELECT custodian.tag_table('log', clock => 'at', on_expiry => 'delete', disposal => '{mode}')"
        )
    };
    node.exec(&tag("off"))?;
    wait_for_answer(&node, ended, "interrupted|disposal is paused|t");
    node.exec(&tag("on"))?;
    wait_for_answer(&node, UNDER_WAY, "running|t");
    node.alter_system("custodian.windows", &later)?;
    wait_for_answer(
        &node,
        "SELECT state, starts_with(waits_for, 'custodian.windows, until ') FROM custodian.progress",
        "interrupted|t",
    );
    let left = node.text("SELECT count(*) FROM log")?;
    assert_eq!(
        node.text("SELECT 3000 - rows_done FROM custodian.runs")?,
        left,
        "what was done is told"
    );
    node.exec("DROP TRIGGER slow ON log")?;
    node.alter_system("custodian.windows", &now)?;
    wait_for_answer(
        &node,
        "SELECT state, rows_done FROM custodian.runs WHERE state <> 'superseded'",
        "done|3000",
    );
    assert_eq!(node.text("SELECT count(*) FROM log")?, "0");
    Ok(())
}

#[test]
fn rows_of_a_day_are_a_limit_and_the_end_is_estimated_by_it() -> Result<()> {
    let (node, _clock) = at_noon(
        "budget",
        &[
            "custodian.max_disposal_fraction = 1",
            "custodian.batch_target = 1ms",
            "custodian.max_rows_per_day = 100",
        ],
    )?;
    node.exec(LOG)?;
    wait_for_answer(
        &node,
        "SELECT state, rows_done BETWEEN 100 AND 599,
                waits_for = 'custodian.max_rows_per_day, until '
                    || to_char(now() AT TIME ZONE 'UTC' + interval '1 day', 'YYYY-MM-DD') || ' 00:00 UTC'
         FROM custodian.progress",
        "interrupted|t|t",
    );
    let done = node.text("SELECT rows_done FROM custodian.runs")?;
    // What is left needs one day for each hundred rows, from tomorrow on.
    assert_eq!(
        node.text(
            "SELECT estimated_end >= (((now() AT TIME ZONE 'UTC')::date + ceil((600 - rows_done) / 100.0)::int)::timestamp
                                      AT TIME ZONE 'UTC')
             FROM custodian.progress"
        )?,
        "t"
    );
    assert_eq!(
        node.text("SELECT 600 - count(*) FROM log")?,
        done,
        "nothing more went"
    );
    // Yesterday's rows do not count.
    node.exec("UPDATE custodian.run SET day = day - 1; INSERT INTO log VALUES (601, 'x', now())")?;
    wait_for_answer(
        &node,
        &format!("SELECT state, rows_done > {done} FROM custodian.progress"),
        "interrupted|t",
    );
    node.alter_system("custodian.max_rows_per_day", "0")?;
    wait_for_answer(&node, "SELECT count(*) FROM log", "1");
    Ok(())
}
