//! What somebody has changed in /etc stays as it is, and nothing is restarted for what is not taken.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::sync::Arc;
use std::time::Duration;

use bootstrap::lock;
use flist::path::FlistPath;
use molt_model::scenario::{self, CONFLICT};
use zinit_client::UnitName;

#[test]
fn an_edited_unit_stays_and_its_service_is_not_restarted_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let lock = lock::take(directory.path(), "the test", Duration::ZERO).unwrap();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let scenario = scenario::all().into_iter().find(|scenario| scenario.name == CONFLICT).unwrap();
    runtime.block_on(async {
        let stage = scenario.set_up(&lock).await.unwrap();
        let machine = Arc::new(stage.machine.copy());
        let processes = || {
            let of = |name: &str| name.parse::<UnitName>().unwrap();
            machine.with(|_, _, services| ["db", "web"].map(|name| services.process_of(&of(name)).unwrap()))
        };
        let before = processes();
        stage.act(&machine, &lock).await.unwrap();
        let text = |path: &str| {
            let path: FlistPath = path.parse().unwrap();
            machine.with(|root, _, _| root.content(&path).map(<[u8]>::to_vec)).map(String::from_utf8)
        };
        let is = |text: &str| Some(Ok(text.to_owned()));
        assert_eq!(text("etc/zinit/db.yaml"), is("exec: /bin/db --mine\n"));
        assert_eq!(text("etc/zinit/db.yaml.new"), is("exec: /bin/db --two\n"));
        assert_eq!((text("etc/web.conf"), text("etc/web.conf.new")), (is("port 9"), is("port 2")));
        let after = processes();
        assert_eq!(before[0], after[0], "nothing of db has changed");
        assert_ne!(before[1], after[1], "the program of web has");
    });
}
