//! Counts of campaigns.

use semver::Version;

use super::*;
use crate::hub::ReleaseId;
use crate::trust::director::Wave;

const NOW: i64 = 1_800_000_000;
const CHANNEL: &str = "r/c:latest.flist";
const STALE: Duration = Duration::from_secs(3600);

fn id(number: u8) -> String {
    format!("{number:02x}").repeat(32)
}

/// A release of one flist, chosen by these rules.
fn campaign(number: u8, rules: Vec<Rule>) -> Campaign {
    let release: ReleaseId = id(number).parse().unwrap();
    let of = Of { channel: CHANNEL.into(), version: Version::new(u64::from(number), 0, 0), release };
    let choice = Choice { rules, of: Some(of.clone()), ..Choice::default() };
    Campaign { of, flists: vec![(format!("dev/r/c:v{number}.0.0.flist"), choice)] }
}

/// A node that has this release, and has nothing to do.
fn node(name: &str, installed: u8) -> Report {
    Report {
        who: Who { node: name.into(), group: None },
        directed: true,
        channel: Some(CHANNEL.into()),
        installed: Some(id(installed)),
        stage: "Idle".into(),
        gate: None,
        candidate: None,
        failed: None,
        problem: None,
        at: u64::try_from(NOW).unwrap(),
    }
}

fn everybody(percent: u8) -> Rule {
    Rule::Wave(Wave { start: NOW - 1000, seconds: 0, percent })
}

fn count(campaigns: &[Campaign], reports: &[Report]) -> Statistics {
    statistics((campaigns, Vec::new()), reports, NOW, STALE)
}

#[test]
fn each_node_stands_in_one_way_to_a_release_that_is_for_it() {
    let two = Some(id(2));
    let at = |stage: &str, gate: Option<&str>| Report {
        stage: stage.into(),
        gate: gate.map(str::to_owned),
        candidate: two.clone(),
        ..node("n", 1)
    };
    let failed = |release: u8| Some((id(release), "web is not well".to_owned()));
    let waits = |report: Report, by: &str| (report, Standing::Waits("x"), by.to_owned());
    for (report, standing, why) in [
        (node("n", 2), Standing::Installed, ""),
        (Report { stage: "Fetching".into(), ..node("n", 2) }, Standing::Installed, ""),
        (at("Fetching", None), Standing::Installing, ""),
        (at("Soaking", None), Standing::Installing, ""),
        // A second try of what failed.
        (Report { failed: failed(2), ..at("Staging", None) }, Standing::Installing, ""),
        (Report { stage: "Degraded".into(), ..node("n", 2) }, Standing::Degraded, ""),
        (
            Report { failed: failed(2), ..at("Waiting", Some("BadRelease")) },
            Standing::Failed(""),
            "web is not well",
        ),
        (
            Report { problem: Some("no room".into()), ..at("Waiting", Some("Refused")) },
            Standing::Failed(""),
            "no room",
        ),
        (at("RolledBack", None), Standing::Failed(""), "it was rolled back"),
    ]
    .map(|(report, standing, why)| (report, standing, why.to_owned()))
    .into_iter()
    .chain([
        waits(at("Waiting", Some("Maintenance")), "Maintenance"),
        waits(at("Waiting", Some("BackOff")), "BackOff"),
        waits(node("n", 1), "Idle"),
        // Another release failed, or is being installed.
        waits(Report { failed: failed(3), ..node("n", 1) }, "Idle"),
        waits(Report { candidate: Some(id(3)), stage: "Fetching".into(), ..node("n", 1) }, "Fetching"),
    ]) {
        let said = match report.standing(&id(2)) {
            Standing::Failed(why) => (Standing::Failed(""), why),
            Standing::Waits(why) => (Standing::Waits("x"), why),
            other => (other, ""),
        };
        assert_eq!(said, (standing, why.as_str()), "{report:?}");
    }
}

#[test]
fn a_wave_counts_the_nodes_that_the_nodes_themselves_count() {
    let (begun, percent) = (Wave { start: NOW - 500, seconds: 1000, percent: 40 }, 40.0);
    let campaigns = [campaign(1, vec![everybody(100)]), campaign(2, vec![Rule::Wave(begun)])];
    let choice = &campaigns[1].flists[0].1;
    let mut nodes: Vec<Report> = (0..500).map(|number| node(&format!("node {number}"), 1)).collect();
    let due = nodes.iter().filter(|node| choice.is_for(&node.who, NOW).is_ok()).count() as u64;
    // Every second one of those whose turn has come has it.
    let mut turn = 0;
    for node in nodes.iter_mut().filter(|node| choice.is_for(&node.who, NOW).is_ok()) {
        turn += 1;
        if turn % 2 == 0 {
            node.installed = Some(id(2));
        }
    }
    let seen = count(&campaigns, &nodes);
    let [one, two] = &seen.releases[..] else { panic!("{seen:?}") };
    assert_eq!(
        (two.nodes, two.all.due, two.all.installed, two.all.waiting),
        (500, due, due / 2, due - due / 2)
    );
    assert!((two.all.share_planned - percent).abs() < 7.0 && two.all.planned > due, "{two:?}");
    assert!((two.all.share_reached - (due / 2) as f64 / 5.0).abs() < 1e-9);
    assert_eq!((&two.rules[0].rule, two.rules[0].counts.due), (&Rule::Wave(begun), due));
    // The release before is for those whom the newer one has not reached.
    assert_eq!((one.all.due, one.all.superseded, one.all.installed), (500, due, 500 - due));
    assert_eq!(two.all.waits, BTreeMap::from([("Idle".to_owned(), due - due / 2)]));

    // Paused, the rest of the wave waits; called off, those who have it keep it.
    let mut stopped = campaigns.clone();
    stopped[1].flists[0].1.pause(NOW - 400);
    let paused = &count(&stopped, &nodes).releases[1];
    assert!(
        paused.all.due < due && paused.all.planned == two.all.planned && paused.paused == Some(NOW - 400)
    );
    stopped[1].flists[0].1.aborted = true;
    let aborted = &count(&stopped, &nodes).releases[1];
    assert_eq!(
        (aborted.aborted, aborted.all.due, aborted.rules[0].counts.due, aborted.kept),
        (true, 0, 0, due / 2)
    );
}

#[test]
fn rules_are_counted_each_by_itself_and_together_without_repeats() {
    let rules = vec![Rule::Node("n1".into()), Rule::Group("canary".into()), Rule::Node("gone".into())];
    let canary = |name: &str, installed| Report {
        who: Who { node: name.into(), group: Some("canary".into()) },
        ..node(name, installed)
    };
    let nodes = [canary("n1", 2), canary("n2", 1), node("n3", 1), node("n4", 2)];
    let seen = count(&[campaign(2, rules)], &nodes);
    let release = &seen.releases[0];
    assert_eq!((release.nodes, release.all.due, release.all.installed, release.kept), (4, 2, 1, 1));
    let each: Vec<_> = release.rules.iter().map(|rule| (rule.counts.due, rule.counts.installed)).collect();
    assert_eq!(each, [(1, 1), (2, 1), (0, 0)]);
    assert_eq!((release.all.share_due, release.all.share_reached), (50.0, 25.0));
}

#[test]
fn failures_are_told_by_reason_the_most_frequent_first() {
    let failed = |number: usize, reason: &str| Report {
        failed: Some((id(2), reason.to_owned())),
        ..node(&format!("n{number}"), 1)
    };
    let mut nodes: Vec<Report> = (0..30).map(|number| failed(number, &format!("reason {number}"))).collect();
    nodes.extend((30..33).map(|number| failed(number, "web is not well")));
    let seen = count(&[campaign(2, vec![everybody(100)])], &nodes);
    let all = &seen.releases[0].all;
    assert_eq!(all.failures[0], Failures { reason: "web is not well".into(), nodes: 3 });
    assert_eq!((all.failed, all.failures.len(), all.more_failures), (33, MOST_REASONS, 33 - 3 - 19));
}

#[test]
fn who_is_not_counted_is_told() {
    let old = Report { at: u64::try_from(NOW).unwrap() - STALE.as_secs() - 1, ..node("old", 2) };
    let ahead = Report { at: u64::try_from(NOW).unwrap() + 9_999, ..node("ahead", 2) };
    let undirected = Report { directed: false, ..node("free", 2) };
    let empty = Report { channel: None, installed: None, ..node("empty", 2) };
    let other = Report { channel: Some("r/other.flist".into()), ..node("other", 2) };
    let pinned = Report { channel: Some("r/c:v2.0.0.flist".into()), ..node("pinned", 2) };
    let seen = count(&[campaign(2, vec![everybody(100)])], &[old, ahead, undirected, empty, other, pinned]);
    assert_eq!((seen.nodes, seen.stale, seen.undirected, seen.without_release), (6, 1, 1, 1));
    let all = &seen.releases[0].all;
    assert_eq!((seen.releases[0].nodes, all.installed, all.stale), (3, 3, 1));
    // Nobody at all.
    let nobody = count(&[campaign(2, vec![everybody(100)])], &[]);
    assert_eq!((nobody.nodes, nobody.releases[0].all.share_reached), (0, 0.0));
}

#[test]
fn targets_of_one_release_are_one_campaign_and_all_of_them_have_to_be_for_a_node() {
    let whole = campaign(2, vec![everybody(100)]);
    let (of, choice) = (whole.of.clone(), whole.flists[0].1.clone());
    let canary = Choice { rules: vec![Rule::Group("canary".into())], ..choice.clone() };
    let earlier = Choice { of: None, ..choice.clone() };
    let targets =
        [("dev/r/a".to_owned(), choice), ("dev/r/b".to_owned(), canary), ("dev/r/x".to_owned(), earlier)];
    let (campaigns, unnamed) = campaigns(targets);
    assert_eq!((campaigns.len(), &campaigns[0].of, campaigns[0].flists.len()), (1, &of, 2));
    assert_eq!(unnamed, ["dev/r/x"]);
    let in_canary = Report { who: Who { node: "c".into(), group: Some("canary".into()) }, ..node("c", 2) };
    let seen = count(&campaigns, &[node("n", 1), in_canary]);
    assert_eq!((seen.releases[0].all.due, seen.releases[0].all.installed), (1, 1));
    assert_eq!(seen.releases[0].rules.len(), 2);
}

/// What programs read: docs/operations.md has these names.
#[test]
fn the_statistics_file_keeps_its_names() {
    let seen = count(&[campaign(2, vec![everybody(100)])], &[node("n", 1)]);
    let json = serde_json::to_value(&seen).unwrap();
    let release = &json["releases"][0];
    assert_eq!(
        (&json["schema"], &json["nodes"], &release["version"]),
        (&1.into(), &1.into(), &"2.0.0".into())
    );
    assert_eq!((&release["due"], &release["waits"]["Idle"]), (&1.into(), &1.into()));
    assert_eq!(release["rules"][0]["rule"]["wave"]["percent"], 100);
    assert!(release["rules"][0]["share_reached"].is_f64() && release.get("reasons").is_none(), "{release}");
}
