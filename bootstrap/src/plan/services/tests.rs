use super::*;

fn name(text: &str) -> UnitName {
    text.parse().unwrap()
}

fn names(list: &[&str]) -> BTreeSet<UnitName> {
    list.iter().map(|text| name(text)).collect()
}

fn unit(text: &str) -> ServiceUnit {
    ServiceUnit::parse(&name("x"), text).unwrap()
}

fn up(at: &str, state: State) -> (UnitName, ServiceStatus) {
    let (name, after) = (name(at), BTreeMap::new());
    (name.clone(), ServiceStatus { name, pid: Some(7), state, target: Target::Up, after })
}

/// `db`, `web` after `db`, and `setup`, a finished oneshot; all run.
fn view() -> ServiceView {
    let units: BTreeMap<_, _> = [
        ("db", "exec: /bin/db"),
        ("web", "exec: /bin/web\nafter: [db]"),
        ("setup", "exec: /bin/setup\noneshot: true"),
    ]
    .into_iter()
    .map(|(at, text)| (name(at), unit(text)))
    .collect();
    let path = |text: &str| text.parse::<FlistPath>().unwrap();
    ServiceView {
        before: units.clone(),
        after: units,
        shipped_before: names(&["db", "web", "setup"]),
        shipped_after: names(&["db", "web", "setup"]),
        status: [up("db", State::Running), up("web", State::Running), up("setup", State::Success)].into(),
        executables: [
            (name("db"), path("bin/db")),
            (name("web"), path("bin/web")),
            (name("setup"), path("bin/setup")),
        ]
        .into(),
        ..ServiceView::default()
    }
}

fn verdicts(view: &ServiceView) -> Vec<(String, Verdict)> {
    plan_services(view).unwrap().notes.iter().map(|n| (n.name.to_string(), n.verdict)).collect()
}

#[test]
fn nothing_changed_nothing_happens() {
    assert_eq!(plan_services(&view()).unwrap(), ServicePlan::default());
}

#[test]
fn only_what_changed_restarts_and_dependents_stay() {
    let mut view = view();
    view.changed_files.insert("bin/db".parse().unwrap());
    let plan = plan_services(&view).unwrap();
    assert_eq!((plan.stop, plan.start), (vec![name("db")], vec![name("db")]));
    assert!(plan.notes[0].reason.contains("/bin/db"));
}

#[test]
fn stops_and_starts_are_ordered_against_each_other() {
    let mut view = view();
    view.changed_units = names(&["db", "web"]);
    let plan = plan_services(&view).unwrap();
    assert_eq!(plan.stop, [name("web"), name("db")]);
    assert_eq!(plan.start, [name("db"), name("web")]);
}

#[test]
fn libraries_and_declared_files_count() {
    let mut view = view();
    view.in_use.insert(name("db"), ["lib/libc.so".parse().unwrap()].into());
    view.in_use.insert(name("foreign"), ["lib/libc.so".parse().unwrap()].into());
    view.in_use.insert(name("loose"), ["lib/libc.so".parse().unwrap()].into());
    view.status.extend([up("foreign", State::Running), up("loose", State::Running)]);
    view.before.insert(name("foreign"), unit("exec: /bin/foreign"));
    view.after.insert(name("foreign"), unit("exec: /bin/foreign"));
    view.after.get_mut(&name("web")).unwrap().molt.uses = vec!["/usr/share/web/*".to_owned()];
    view.changed_files.insert("usr/share/web/a/b.html".parse().unwrap());
    let expected = [
        ("db", Verdict::Restart),
        ("foreign", Verdict::Restart),
        ("loose", Verdict::Keep),
        ("web", Verdict::Restart),
    ];
    assert_eq!(verdicts(&view), expected.map(|(at, verdict)| (at.to_owned(), verdict)));
}

#[test]
fn new_removed_and_protected_services() {
    let mut view = view();
    view.after.insert(name("new"), unit("exec: /bin/new"));
    view.shipped_after = names(&["new", "db", "setup"]);
    view.changed_units = names(&["db"]);
    view.protected = names(&["db"]);
    let expected = [("db", Verdict::Keep), ("new", Verdict::Start), ("web", Verdict::Remove)];
    assert_eq!(verdicts(&view), expected.map(|(at, verdict)| (at.to_owned(), verdict)));
    let plan = plan_services(&view).unwrap();
    assert_eq!((plan.stop, plan.start), (vec![name("web")], vec![name("new")]));
}

#[test]
fn a_library_of_the_protected_is_swapped_and_the_plan_says_who_runs_the_old_one() {
    let mut view = view();
    view.protected = names(&["zinit", "identityd", "db"]);
    view.status.extend([up("identityd", State::Running)]);
    for user in ["zinit", "identityd", "db", "web"] {
        view.in_use.insert(name(user), ["lib/libc.so".parse().unwrap()].into());
    }
    let plan = plan_services(&view).unwrap();
    assert_eq!((plan.stop, plan.start), (vec![name("web")], vec![name("web")]));
    let kept: Vec<_> = plan.notes.iter().filter(|note| note.verdict == Verdict::Keep).collect();
    assert_eq!(kept.len(), 3);
    for (note, until) in kept.iter().zip(["it is restarted", "another identityd", "the node reboots"]) {
        assert!(note.reason.contains("/lib/libc.so") && note.reason.contains(until), "{note:?}");
    }
}

#[test]
fn an_identityd_that_is_replaced_is_said_to_replace_itself() {
    let mut view = view();
    view.protected = names(&["identityd"]);
    view.status.extend([up("identityd", State::Running)]);
    view.after.insert(name("identityd"), unit("exec: /sbin/identityd run"));
    view.executables.insert(name("identityd"), "sbin/identityd".parse().unwrap());
    view.changed_files = ["sbin/identityd".parse().unwrap()].into();
    view.in_use.insert(name("identityd"), view.changed_files.clone());
    let plan = plan_services(&view).unwrap();
    let note = plan.notes.iter().find(|note| note.name == name("identityd")).unwrap();
    assert_eq!(note.verdict, Verdict::Keep);
    assert!(note.reason.ends_with("it replaces itself before everything else"), "{note:?}");
}

#[test]
fn finished_oneshots_rerun_only_for_a_new_unit() {
    let mut view = view();
    view.changed_files.insert("bin/setup".parse().unwrap());
    assert_eq!(verdicts(&view), [("setup".to_owned(), Verdict::Keep)]);
    view.changed_units = names(&["setup"]);
    assert_eq!(verdicts(&view), [("setup".to_owned(), Verdict::Restart)]);
}

#[test]
fn what_the_administrator_stopped_stays_down() {
    let mut view = view();
    view.status.get_mut(&name("web")).unwrap().target = Target::Down;
    view.changed_files.insert("bin/web".parse().unwrap());
    assert_eq!(verdicts(&view), [("web".to_owned(), Verdict::Keep)]);
    view.changed_units = names(&["web"]);
    let plan = plan_services(&view).unwrap();
    assert_eq!(
        (plan.stop.len(), plan.start.len(), plan.forget),
        (1, 0, vec![]),
        "its process has not ended yet"
    );
    assert_eq!(plan.notes[0].verdict, Verdict::Forget);
    view.status.get_mut(&name("web")).unwrap().pid = None;
    let plan = plan_services(&view).unwrap();
    assert_eq!((plan.stop, plan.start.len(), plan.forget), (vec![], 0, vec![name("web")]));
    view.table = Some(Table::default());
    let plan = plan_services(&view).unwrap();
    assert_eq!(
        (plan.stop, plan.forget),
        (vec![name("web")], vec![]),
        "zinit 0.3 forgets before it loads anew"
    );
    view.table = None;
    // From then on zinit does not know it, and it stays down all the same.
    view.status.remove(&name("web"));
    assert_eq!(verdicts(&view), []);
    view.starts_missing = true;
    assert_eq!(verdicts(&view), [("web".to_owned(), Verdict::Start)]);
}

#[test]
fn a_service_is_not_stopped_that_would_wait_for_one_that_nobody_starts() {
    let mut view = view();
    view.changed_files.insert("bin/web".parse().unwrap());
    let refused = |view: &ServiceView| match plan_services(view) {
        Err(ServicesError::HeldUp { unit, needs, why }) => format!("{unit} {needs} {why}"),
        other => other.unwrap().start.iter().map(UnitName::as_str).collect::<Vec<_>>().join(", "),
    };
    assert_eq!(refused(&view), "web");
    let db = view.status.get_mut(&name("db")).unwrap();
    (db.target, db.state, db.pid) = (Target::Down, State::Success, None);
    assert_eq!(refused(&view), "web", "what has done its work holds up nobody");
    view.status.get_mut(&name("db")).unwrap().state = State::Unknown;
    assert_eq!(refused(&view), "web db is stopped");
    let unit = view.after.get_mut(&name("web")).unwrap();
    let needs = std::mem::take(&mut unit.after);
    assert_eq!(refused(&view), "web db is stopped", "with the unit that it has it would not come up again");
    view.after.get_mut(&name("web")).unwrap().after = needs;
    view.changed_units = names(&["db"]);
    assert_eq!(refused(&view), "web db zinit is made to forget");
    view.status.remove(&name("db"));
    assert_eq!(refused(&view), "web db zinit does not know");
    view.starts_missing = true;
    assert_eq!(refused(&view), "db, web");
    view.after.get_mut(&name("web")).unwrap().after = vec![name("nobody")];
    assert_eq!(refused(&view), "db, web", "a boot goes on without it");
}

#[test]
fn globs() {
    for (pattern, text, expected) in [
        ("a*c", "abc", true),
        ("a*c", "ab", false),
        ("*", "", true),
        ("?", "", false),
        ("usr/*/x?", "usr/lib/deep/x1", true),
        ("a*b*c", "aXbYc", true),
        ("a*b*c", "acb", false),
    ] {
        assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
    }
}
