//! What the supervisor says, and what it does with a service by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use zinit_client::{Client, Dialect, Error, ExitCause, Refusal, SignalName, State, Target};

use super::stage::{Fault, Stage, ensure, is_alive, refused, unit};
use super::table;

table! {
    "the client finds out the dialect" => detection,
    "list and status" => list_and_status,
    "unknown names are refused" => unknown_names,
    "a monitored service is not monitored again" => twice,
    "a service that is up is not forgotten" => up,
    "a service without process gets no signal" => no_process,
    "a unit that is not there is refused" => no_unit,
    "a program that is not there" => no_program,
    "words arrive as zinit splits them" => words,
    "environment and directory" => surroundings,
    "a oneshot runs once" => oneshot,
    "a oneshot that fails is not repeated" => failing_oneshot,
    "dependencies come first" => order,
    "a missing dependency holds up" => missing_dependency,
    "a test holds up" => test,
    "a crash is followed by a start" => crash,
    "a killed service is started again" => killed,
    "the log has the lines of all services" => log,
    "many clients at once" => many,
}

async fn detection(stage: &mut Stage) -> Result<String, Fault> {
    let dialect = stage.client.dialect().await?;
    ensure(dialect == stage.zinit.dialect(), || format!("found {dialect}"))?;
    Ok(dialect.to_string())
}

async fn list_and_status(stage: &mut Stage) -> Result<String, Fault> {
    stage.monitor("once", "exec: 'true'\noneshot: true\n").await?;
    stage.wait_for("once", |status| status.state == State::Success).await?;
    let long = stage.run("long", "exec: sleep 1000\n").await?;
    stage.run("dep", "exec: sleep 1000\nafter: [once, long]\n").await?;
    ensure(is_alive(long), || format!("{long} does not run"))?;
    let list = stage.client.list().await?;
    let wanted = [("dep", State::Running), ("long", State::Running), ("once", State::Success)]
        .map(|(name, state)| (name.to_owned(), state));
    let all = BTreeMap::from(wanted.clone());
    ensure(list == all, || format!("{list:?}"))?;
    let status = stage.status("dep").await?;
    ensure(status.target == Target::Up && status.name.as_str() == "dep", || format!("{status:?}"))?;
    let after: BTreeMap<String, State> = wanted[1..].iter().cloned().collect();
    ensure(status.after == after, || format!("{:?}", status.after))?;
    let once = stage.status("once").await?;
    ensure(once.target == Target::Up && once.pid.is_none(), || format!("{once:?}"))?;
    Ok(String::new())
}

async fn unknown_names(stage: &mut Stage) -> Result<String, Fault> {
    let (client, name) = (&stage.client, unit("nosuch")?);
    let unknown = |refusal: &Refusal| matches!(refusal, Refusal::UnknownService { name } if name == "nosuch");
    refused(client.status(&name).await, unknown)?;
    refused(client.start(&name).await, unknown)?;
    refused(client.stop(&name).await, unknown)?;
    refused(client.forget(&name).await, unknown)?;
    refused(client.kill(&name, SignalName::TERM).await, unknown)?;
    Ok(String::new())
}

async fn twice(stage: &mut Stage) -> Result<String, Fault> {
    let pid = stage.run("long", "exec: sleep 1000\n").await?;
    let again = stage.client.monitor(&unit("long")?).await;
    refused(again, |refusal| matches!(refusal, Refusal::AlreadyMonitored { .. }))?;
    stage.client.start(&unit("long")?).await?;
    let now = stage.running("long").await?;
    ensure(now == pid, || format!("{pid} became {now}"))?;
    Ok(String::new())
}

async fn up(stage: &mut Stage) -> Result<String, Fault> {
    let pid = stage.run("long", "exec: sleep 1000\n").await?;
    refused(stage.client.forget(&unit("long")?).await, |refusal| matches!(refusal, Refusal::IsUp { .. }))?;
    ensure(is_alive(pid), || "it ended".to_owned())?;
    Ok(String::new())
}

async fn no_process(stage: &mut Stage) -> Result<String, Fault> {
    stage.monitor("once", "exec: 'true'\noneshot: true\n").await?;
    stage.wait_for("once", |status| status.state == State::Success && status.pid.is_none()).await?;
    let killed = stage.client.kill(&unit("once")?, SignalName::TERM).await;
    refused(killed, |refusal| matches!(refusal, Refusal::IsDown { .. }))?;
    Ok(String::new())
}

async fn no_unit(stage: &mut Stage) -> Result<String, Fault> {
    let missing = stage.client.monitor(&unit("nosuch")?).await;
    refused(missing, |refusal| matches!(refusal, Refusal::ConfigLoad))?;
    let broken = stage.monitor("broken", "exec: [\n").await;
    ensure(broken.is_err(), || "a broken unit was taken".to_owned())?;
    ensure(stage.client.list().await?.is_empty(), || "something is monitored".to_owned())?;
    Ok(String::new())
}

async fn no_program(stage: &mut Stage) -> Result<String, Fault> {
    let monitored = stage.monitor("none", "exec: /no/such/program\n").await;
    monitored?;
    if stage.zinit.dialect() == Dialect::Service {
        // The shell that it runs it with says so, and is tried again.
        let code = |state: &State| matches!(state, State::Error(ExitCause::Exited { code: 127, .. }));
        stage.wait_for("none", |status| code(&status.state) && status.pid.is_none()).await?;
        return Ok("it is tried again and again".to_owned());
    }
    stage.wait_for("none", |status| status.state == State::Failure && status.pid.is_none()).await?;
    Ok(String::new())
}

async fn words(stage: &mut Stage) -> Result<String, Fault> {
    // What a shell would make something of, and a single quote.
    let arguments =
        ["a b", "$HOME", "`id`", "*", "~", ";", "&", "|", ">x", "#", "\"q\"", "it's", "", "ä", "a=b", "\\"];
    let quoted: Vec<String> = arguments
        .iter()
        .map(|word| match word.contains('\'') {
            true => format!("\"{word}\""),
            false => format!("'{word}'"),
        })
        .collect();
    let script = "for word in \"$@\"; do echo \"<$word>\"; done >@/words.new; mv @/words.new @/words";
    let exec = format!("sh -c '{script}' sh {}", quoted.join(" "));
    let yaml = serde_json::to_string(&exec)?;
    stage.monitor("words", &format!("exec: {yaml}\noneshot: true\n")).await?;
    stage.until("it has run", async || !stage.read("words").is_empty()).await?;
    let wanted: String = arguments.iter().map(|word| format!("<{word}>\n")).collect();
    let found = stage.read("words");
    ensure(found == wanted, || format!("{found:?} instead of {wanted:?}"))?;
    Ok(String::new())
}

async fn surroundings(stage: &mut Stage) -> Result<String, Fault> {
    let script = "echo \"$COLOUR $PWD\" > @/seen.new; mv @/seen.new @/seen";
    let text = format!("exec: sh -c '{script}'\noneshot: true\nenv: {{COLOUR: \"dark blue\"}}\n");
    stage.monitor("here", &text).await?;
    stage.monitor("there", &format!("{}dir: /proc\n", text.replace("seen", "seen2"))).await?;
    stage
        .until("both have run", async || !stage.read("seen").is_empty() && !stage.read("seen2").is_empty())
        .await?;
    let seen = (stage.read("seen"), stage.read("seen2"));
    ensure(seen.0 == "dark blue /\n" && seen.1 == "dark blue /proc\n", || format!("{seen:?}"))?;
    Ok(String::new())
}

async fn oneshot(stage: &mut Stage) -> Result<String, Fault> {
    stage.monitor("once", "exec: sh -c 'echo x >> @/runs'\noneshot: true\n").await?;
    let status =
        stage.wait_for("once", |status| status.state == State::Success && status.pid.is_none()).await?;
    ensure(status.target == Target::Up && status.is_settled(true), || format!("{status:?}"))?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure(stage.read("runs") == "x\n", || "it ran again".to_owned())?;
    stage.client.start(&unit("once")?).await?;
    stage.until("it runs when it is started", async || stage.read("runs") == "x\nx\n").await?;
    Ok(String::new())
}

async fn failing_oneshot(stage: &mut Stage) -> Result<String, Fault> {
    stage.monitor("once", "exec: sh -c 'echo x >> @/runs; exit 3'\noneshot: true\n").await?;
    let ended = |state: &State| matches!(state, State::Error(ExitCause::Exited { code: 3, .. }));
    let status = stage.wait_for("once", |status| ended(&status.state)).await?;
    ensure(status.has_failed() && status.pid.is_none(), || format!("{status:?}"))?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    ensure(stage.read("runs") == "x\n", || "it ran again".to_owned())?;
    Ok(String::new())
}

async fn order(stage: &mut Stage) -> Result<String, Fault> {
    // The names are in the other direction than the order.
    stage.monitor("c", "exec: sh -c 'sleep 0.5; echo c >> @/order'\noneshot: true\n").await?;
    stage.monitor("b", "exec: sh -c 'echo b >> @/order'\noneshot: true\nafter: [c]\n").await?;
    stage.monitor("a", "exec: sh -c 'echo a >> @/order; exec sleep 1000'\nafter: [b]\n").await?;
    stage.running("a").await?;
    stage.until("all have run", async || stage.read("order") == "c\nb\na\n").await?;
    Ok(String::new())
}

async fn missing_dependency(stage: &mut Stage) -> Result<String, Fault> {
    let monitored = stage.monitor("late", "exec: sleep 1000\nafter: [early]\n").await;
    if stage.zinit.dialect() == Dialect::Service {
        ensure(monitored.is_err(), || "it was taken".to_owned())?;
        return Ok("the unit is refused".to_owned());
    }
    monitored?;
    stage.wait_for("late", |status| status.state == State::Blocked && status.pid.is_none()).await?;
    stage.run("early", "exec: sleep 1000\n").await?;
    stage.running("late").await?;
    Ok(String::new())
}

async fn test(stage: &mut Stage) -> Result<String, Fault> {
    stage.monitor("web", "exec: sleep 1000\ntest: test -e @/units/ready.yaml\n").await?;
    stage.wait_for("web", |status| status.state == State::Spawned && status.pid.is_some()).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let status = stage.status("web").await?;
    ensure(status.state == State::Spawned && !status.is_settled(false), || format!("{status:?}"))?;
    stage.write("ready", "")?;
    stage.running("web").await?;
    Ok(String::new())
}

async fn crash(stage: &mut Stage) -> Result<String, Fault> {
    stage.monitor("crash", "exec: sh -c 'echo x >> @/starts; sleep 0.2; exit 3'\n").await?;
    let status = stage.wait_for("crash", |status| status.state.has_failed()).await?;
    let is_three = matches!(status.state, State::Error(ExitCause::Exited { code: 3, .. }));
    ensure(is_three && status.has_failed() && status.pid.is_none(), || format!("{status:?}"))?;
    stage.until("it was started three times", async || stage.read("starts").len() >= 6).await?;
    Ok(String::new())
}

async fn killed(stage: &mut Stage) -> Result<String, Fault> {
    let first = stage.run("long", "exec: sleep 1000\n").await?;
    stage.client.kill(&unit("long")?, SignalName::KILL).await?;
    let dead = stage.wait_for("long", |status| status.pid.is_none()).await?;
    let by_kill =
        matches!(&dead.state, State::Error(ExitCause::Signaled { signal, .. }) if signal == "SIGKILL");
    ensure(by_kill, || format!("{dead:?}"))?;
    let second = stage.running("long").await?;
    ensure(first != second, || "it has the same process".to_owned())?;
    Ok(String::new())
}

async fn log(stage: &mut Stage) -> Result<String, Fault> {
    stage.monitor("talk", "exec: sh -c 'echo spoken; echo shouted >&2; exec sleep 1000'\n").await?;
    stage.monitor("also", "exec: sh -c 'echo here; exec sleep 1000'\n").await?;
    let wanted = ["[+] talk: spoken\n", "[-] talk: shouted\n", "[+] also: here\n"];
    let has_all = |log: &str| wanted.iter().all(|line| log.contains(line));
    stage
        .until("all is in the log", async || stage.client.log_snapshot().await.is_ok_and(|log| has_all(&log)))
        .await?;
    Ok(String::new())
}

async fn many(stage: &mut Stage) -> Result<String, Fault> {
    for number in 0..5 {
        stage.run(&format!("s{number}"), "exec: sleep 1000\n").await?;
    }
    let ask = |client: Client, number: usize| async move {
        let name = unit(&format!("s{}", number % 5)).map_err(|error| error.to_string())?;
        let (list, status) = (client.list().await, client.status(&name).await);
        let told = |error: Error| error.to_string();
        let (list, status) = (list.map_err(told)?, status.map_err(told)?);
        (list.len() == 5 && status.name == name).then_some(()).ok_or_else(|| format!("{list:?} {status:?}"))
    };
    let tasks = tokio::task::LocalSet::new();
    let work = (0..40).map(|number| tasks.spawn_local(ask(stage.client.clone(), number))).collect::<Vec<_>>();
    tasks
        .run_until(async {
            for task in work {
                task.await.map_err(|error| error.to_string())??;
            }
            Ok::<_, String>(())
        })
        .await?;
    Ok("40".to_owned())
}
