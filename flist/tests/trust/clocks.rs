//! Nodes whose clocks are wrong.

use flist::trust::clock::{Clocks, Uptime};
use flist::trust::{Verdict, earliest};

use crate::forge::next;
use crate::rig::{DAY, Node, Repo, TODAY, at, clocks};

fn boot(wall: i64, seconds: i64) -> Clocks {
    Clocks {
        wall: at(wall),
        uptime: Uptime { boot_id: "this boot".to_owned(), seconds },
        built: TODAY - 30 * DAY,
    }
}

#[tokio::test]
async fn a_clock_in_1970_loses_no_release() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let node = Node::of(&repo);
    node.client.refresh(&boot(5, 1)).await.unwrap();
    repo.release("2.0.0", TODAY + 60 * DAY);
    node.client.refresh(&boot(5, 2)).await.unwrap();
}

#[tokio::test]
async fn a_clock_in_1970_does_not_hide_a_freeze() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let node = Node::of(&repo);
    node.client.refresh(&boot(5, 1)).await.unwrap();
    // Signed today, hence today at least; the kernel has counted eight days since.
    node.client.refresh(&boot(5, 6 * DAY)).await.unwrap();
    let error = node.client.refresh(&boot(5, 8 * DAY)).await.err().unwrap();
    assert_eq!(error.verdict(), Verdict::Expired);
    // After the next boot the count begins anew, but time has not gone back.
    let next = Clocks { uptime: Uptime { boot_id: "another".to_owned(), seconds: 1 }, ..boot(5, 0) };
    assert!(node.client.floor(&next) >= TODAY + 6 * DAY - 60);
}

#[tokio::test]
async fn metadata_from_before_the_program_is_expired() {
    let repo = Repo::new();
    let late = Clocks { built: TODAY + 400 * DAY, ..clocks(5) };
    let error = Node::of(&repo).client.refresh(&late).await.err().unwrap();
    assert_eq!(error.verdict(), Verdict::Expired);
}

#[tokio::test]
async fn a_clock_far_ahead_is_named_and_does_no_lasting_harm() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let node = Node::of(&repo);
    node.client.refresh(&boot(TODAY, 1)).await.unwrap();
    for year_2038_and_later in [2_147_483_648, 2_524_608_000, 253_402_200_000] {
        let error = node.client.refresh(&boot(year_2038_and_later, 2)).await.err().unwrap();
        assert_eq!(error.verdict(), Verdict::Clock, "{error}");
        assert!(error.to_string().contains("look at the clock"), "{error}");
    }
    node.client.refresh(&boot(TODAY, 3)).await.unwrap();
}

#[tokio::test]
async fn what_has_expired_here_does_not_keep_newer_metadata_away() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let node = Node::of(&repo);
    node.refresh(TODAY).await.unwrap();
    // Everything that is kept has expired, the root included.
    let later = TODAY + 400 * DAY;
    let all = ["root", "targets", "snapshot", "dev", "test", "prod", "qa"].map(|role| role.parse().unwrap());
    repo.trust.refresh(&all, &mut repo.signers(), at(later)).unwrap();
    repo.serve();
    assert_eq!(node.version(later).await.unwrap(), "1.0.0");
}

/// Whoever has stolen the key of the timestamp signs that it is the year 9998.
#[tokio::test]
async fn a_stolen_timestamp_key_does_not_stop_time_for_ever() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let node = Node::of(&repo);
    node.client.refresh(&boot(TODAY, 1)).await.unwrap();
    next(&repo.web, "timestamp", &repo.stolen("timestamp"), |timestamp| {
        timestamp["expires"] = "9998-12-31T23:59:59Z".into();
        timestamp["x-molt-signed"] = "9998-01-01T00:00:00Z".into();
    });
    // The node believes it, and takes nothing more. Nor does its gate of maintenance windows, which is judged by this.
    let _ = node.client.refresh(&boot(TODAY, 2)).await;
    assert!(node.client.refresh(&boot(TODAY, 3)).await.is_err());
    assert!(earliest(&node.state, &boot(TODAY, 3)) > TODAY + 7900 * 365 * DAY);
    // The owners replace the key, and everything is as it was: also the time.
    repo.rotate("timestamp");
    repo.release("2.0.0", TODAY);
    node.client.refresh(&boot(TODAY, 4)).await.unwrap();
    assert_eq!(node.version(TODAY).await.unwrap(), "2.0.0");
    assert!(node.client.floor(&boot(TODAY, 5)) < TODAY + DAY);
    assert!(earliest(&node.state, &boot(TODAY, 5)) < TODAY + DAY);
}

#[tokio::test]
async fn a_timestamp_that_was_signed_after_its_end_says_nothing_about_the_time() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let node = Node::of(&repo);
    next(&repo.web, "timestamp", &repo.stolen("timestamp"), |timestamp| {
        timestamp["x-molt-signed"] = "9998-01-01T00:00:00Z".into();
    });
    node.client.refresh(&boot(TODAY, 1)).await.unwrap();
    assert!(node.client.floor(&boot(TODAY, 1)) < TODAY);
}

/// Somebody keeps the hub away, and waits for the next boot to have the time forgotten.
#[tokio::test]
async fn time_that_passes_without_a_hub_is_not_forgotten() {
    let repo = Repo::new();
    repo.release("1.0.0", TODAY);
    let node = Node::of(&repo);
    node.client.refresh(&boot(5, 1)).await.unwrap();
    repo.web.clear();
    assert!(node.client.refresh(&boot(5, 8 * DAY)).await.is_err());
    repo.serve();
    let next = Clocks { uptime: Uptime { boot_id: "another".to_owned(), seconds: 1 }, ..boot(5, 0) };
    let error = node.client.refresh(&next).await.err().unwrap();
    assert_eq!(error.verdict(), Verdict::Expired);
}
