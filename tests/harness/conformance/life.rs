//! Stopping, starting and reloading as the engine does it.

use std::time::Duration;

use zinit_client::{Client, Dialect, Error, State, Target};

use super::stage::{Fault, Stage, ensure, is_alive, unit};
use super::table;

/// Longer than any zinit waits before it starts a service again.
const RESPAWN: Duration = Duration::from_secs(3);

table! {
    "a stopped service stays down" => stays_down,
    "a service that ends well when it is stopped stays down" => ends_well,
    "a service that ends well by itself is wanted up" => comes_and_goes,
    "a restart brings another process" => restart,
    "a crashing service can be stopped" => crashing,
    "a service gets its unit's time to end" => slow,
    "a service that does not end is killed" => stubborn,
    "its own stop signal" => own_signal,
    "what outlives its leader is killed" => orphan,
    "what outlives its leader has the unit's time to end" => heir,
    "a changed unit takes effect" => changed,
    "a unit that is gone is forgotten" => gone,
    "dependants come back" => dependants,
    "nobody is taken along silently" => hazards,
    "an unchanged unit runs on untouched" => untouched,
}

async fn stays_down(stage: &mut Stage) -> Result<String, Fault> {
    let pid = stage.run("long", "exec: sleep 1000\n").await?;
    stage.client.stop(&unit("long")?).await?;
    let stopped = stage.wait_for("long", |status| status.pid.is_none()).await?;
    ensure(stopped.target == Target::Down && stopped.is_stopped(), || format!("{stopped:?}"))?;
    stage.until("its process has ended", async || !is_alive(pid)).await?;
    tokio::time::sleep(RESPAWN).await;
    let later = stage.status("long").await?;
    ensure(later.is_stopped(), || format!("it came back: {later:?}"))?;
    stage.client.stop(&unit("long")?).await?;
    Ok(String::new())
}

async fn ends_well(stage: &mut Stage) -> Result<String, Fault> {
    let script = "trap \"exit 0\" TERM; touch @/ready; while :; do sleep 0.1; done";
    let text = format!("exec: sh -c '{script}'\ntest: test -e @/ready\n");
    stage.run("polite", &text).await?;
    stage.client.stop(&unit("polite")?).await?;
    let stopped = stage.wait_for("polite", |status| status.pid.is_none()).await?;
    ensure(stopped.is_stopped(), || format!("{stopped:?}"))?;
    tokio::time::sleep(RESPAWN).await;
    // Also for somebody who has not seen it being stopped.
    let stranger = Client::new(stage.client.socket()).with_units(stage.units());
    for client in [&stage.client, &stranger] {
        let later = client.status(&unit("polite")?).await?;
        ensure(later.is_stopped(), || format!("{later:?}"))?;
    }
    Ok(String::new())
}

async fn comes_and_goes(stage: &mut Stage) -> Result<String, Fault> {
    stage.monitor("brief", "exec: sh -c 'echo x >> @/starts'\n").await?;
    stage.wait_for("brief", |status| status.state == State::Success).await?;
    let (seen, name) = (stage.read("starts"), unit("brief")?);
    stage
        .until("it was started again", async || {
            let status = stage.client.status(&name).await;
            status.is_ok_and(|status| status.target == Target::Up) && stage.read("starts").len() > seen.len()
        })
        .await?;
    let status = stage.status("brief").await?;
    ensure(status.target == Target::Up, || format!("{status:?}"))?;
    stage.stop("brief").await?;
    let starts = stage.read("starts");
    tokio::time::sleep(RESPAWN).await;
    ensure(stage.read("starts") == starts, || "it was started again".to_owned())?;
    Ok(String::new())
}

async fn restart(stage: &mut Stage) -> Result<String, Fault> {
    let first = stage.run("long", "exec: sleep 1000\n").await?;
    stage.stop("long").await?;
    ensure(!is_alive(first), || format!("{first} still runs"))?;
    stage.start("long").await?;
    let second = stage.running("long").await?;
    ensure(first != second && is_alive(second), || format!("{first}, then {second}"))?;
    tokio::time::sleep(RESPAWN).await;
    let third = stage.running("long").await?;
    ensure(third == second, || format!("{second} became {third}"))?;
    Ok(String::new())
}

async fn crashing(stage: &mut Stage) -> Result<String, Fault> {
    stage.monitor("crash", "exec: sh -c 'echo x >> @/starts; exit 3'\n").await?;
    stage.wait_for("crash", |status| status.state.has_failed()).await?;
    stage.stop("crash").await?;
    let starts = stage.read("starts");
    tokio::time::sleep(RESPAWN).await;
    ensure(stage.read("starts") == starts, || "it was started again".to_owned())?;
    Ok(String::new())
}

async fn slow(stage: &mut Stage) -> Result<String, Fault> {
    let script =
        "trap \"sleep 2; echo done > @/done; exit 0\" TERM; touch @/ready; while :; do sleep 0.1; done";
    let pid = stage
        .run("slow", &format!("exec: sh -c '{script}'\nshutdown_timeout: 20\ntest: test -e @/ready\n"))
        .await?;
    stage.stop("slow").await?;
    ensure(stage.read("done") == "done\n", || "it was killed while it ended".to_owned())?;
    ensure(!is_alive(pid), || format!("{pid} still runs"))?;
    tokio::time::sleep(RESPAWN).await;
    if stage.client.list().await?.contains_key("slow") {
        let status = stage.status("slow").await?;
        ensure(status.pid.is_none(), || format!("it came back: {status:?}"))?;
    }
    stage.start("slow").await?;
    stage.running("slow").await?;
    Ok(String::new())
}

async fn stubborn(stage: &mut Stage) -> Result<String, Fault> {
    let script = "trap \"\" TERM; touch @/deaf; while :; do sleep 0.1; done";
    let text = format!("exec: sh -c '{script}'\ntest: test -e @/deaf\nshutdown_timeout: 1\n");
    let pid = stage.run("deaf", &text).await?;
    stage.stop("deaf").await?;
    ensure(!is_alive(pid), || format!("{pid} still runs"))?;
    Ok(String::new())
}

async fn own_signal(stage: &mut Stage) -> Result<String, Fault> {
    let script = "trap \"\" TERM; trap \"echo usr1 > @/signal; exit 0\" USR1; touch @/ready; while :; do sleep 0.1; done";
    let text = format!("exec: sh -c '{script}'\ntest: test -e @/ready\nsignal: {{stop: sigusr1}}\n");
    stage.run("picky", &text).await?;
    stage.stop("picky").await?;
    ensure(stage.read("signal") == "usr1\n", || "it got another signal".to_owned())?;
    Ok(String::new())
}

async fn orphan(stage: &mut Stage) -> Result<String, Fault> {
    let script = "(trap \"\" TERM; echo > @/ready; while :; do sleep 0.1; done) & echo $! > @/child; wait";
    let text = format!("exec: sh -c '{script}'\ntest: test -e @/ready -a -s @/child\n");
    stage.run("parent", &text).await?;
    let child: u32 = stage.read("child").trim().parse()?;
    stage.stop("parent").await?;
    stage.until("its child has ended", async || !is_alive(child)).await?;
    Ok(String::new())
}

/// As a program has it that is started by a script, which ends first.
async fn heir(stage: &mut Stage) -> Result<String, Fault> {
    let ends = "trap \"sleep 2; echo > @/flushed; exit\" TERM";
    let script = format!("({ends}; echo > @/ready; while :; do sleep 0.1; done) & echo $! > @/child; wait");
    let text = format!("exec: sh -c '{script}'\ntest: test -e @/ready -a -s @/child\n");
    stage.run("parent", &text).await?;
    let child: u32 = stage.read("child").trim().parse()?;
    stage.stop("parent").await?;
    ensure(!is_alive(child), || format!("{child} is still alive"))?;
    ensure(!stage.read("flushed").is_empty(), || "it was killed before it had ended".to_owned())?;
    Ok(String::new())
}

async fn changed(stage: &mut Stage) -> Result<String, Fault> {
    let first = stage.run("web", "exec: sleep 1001\n").await?;
    stage.stop("web").await?;
    stage.write("web", "exec: sleep 1002\n")?;
    stage.discard(&["web"]).await?;
    stage.start("web").await?;
    let second = stage.running("web").await?;
    ensure(first != second, || format!("{first} still runs"))?;
    stage.until("it runs what its new unit says", async || runs(second, "1002")).await?;
    Ok(String::new())
}

/// Whether a process has this word on its command line, which is empty in the moment in which it becomes another
/// program.
fn runs(pid: u32, word: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|command| command.contains(word))
}

async fn gone(stage: &mut Stage) -> Result<String, Fault> {
    let pid = stage.run("web", "exec: sleep 1000\n").await?;
    stage.stop("web").await?;
    stage.remove("web")?;
    stage.discard(&["web"]).await?;
    let list = stage.client.list().await?;
    ensure(list.is_empty() && !is_alive(pid), || format!("{list:?}"))?;
    Ok(String::new())
}

async fn dependants(stage: &mut Stage) -> Result<String, Fault> {
    let redis = stage.run("redis", "exec: sleep 1001\n").await?;
    let web = stage.run("web", "exec: sleep 1000\nafter: [redis]\n").await?;
    // As a plan does where the supervisor would stop what depends on it anyway: dependants first.
    stage.stop("web").await?;
    stage.stop("redis").await?;
    stage.write("redis", "exec: sleep 1002\n")?;
    stage.discard(&["redis", "web"]).await?;
    stage.start("redis").await?;
    stage.start("web").await?;
    let (redis_now, web_now) = (stage.running("redis").await?, stage.running("web").await?);
    stage.until("redis runs what its new unit says", async || runs(redis_now, "1002")).await?;
    ensure(redis != redis_now && web != web_now, || "old processes run".to_owned())?;
    tokio::time::sleep(RESPAWN).await;
    ensure(stage.running("web").await? == web_now, || "web was started twice".to_owned())?;
    Ok(String::new())
}

async fn hazards(stage: &mut Stage) -> Result<String, Fault> {
    stage.run("redis", "exec: sleep 1000\n").await?;
    let web = stage.run("web", "exec: sleep 1000\nafter: [redis]\n").await?;
    let other = stage.run("other", "exec: sleep 1000\n").await?;
    let keeps = stage.zinit.dialect() == Dialect::Service;
    stage.stop("redis").await?;
    if keeps {
        // It has stopped web as well, and would move `other` in its table.
        stage.wait_for("web", |status| status.pid.is_none()).await?;
        let forgotten = stage.client.forget(&unit("redis")?).await;
        ensure(matches!(forgotten, Err(Error::Unsafe { .. })), || format!("{forgotten:?}"))?;
        stage.start("redis").await?;
        stage.running("redis").await?;
        stage.start("web").await?;
        stage.running("web").await?;
    } else {
        ensure(is_alive(web), || "web was stopped".to_owned())?;
    }
    ensure(is_alive(other), || "another service was stopped".to_owned())?;
    Ok(if keeps { "dependants are stopped, and a deletion is refused" } else { "" }.to_owned())
}

async fn untouched(stage: &mut Stage) -> Result<String, Fault> {
    let kept = stage.run("kept", "exec: sleep 1000\n").await?;
    stage.run("web", "exec: sleep 1001\n").await?;
    for seconds in [1002, 1003] {
        stage.stop("web").await?;
        stage.write("web", &format!("exec: sleep {seconds}\n"))?;
        stage.discard(&["web"]).await?;
        stage.start("web").await?;
        stage.running("web").await?;
    }
    ensure(stage.running("kept").await? == kept, || "another service was restarted".to_owned())?;
    // The supervisor still knows both: their ends are noticed.
    stage.client.kill(&unit("kept")?, zinit_client::SignalName::KILL).await?;
    let again = stage.wait_for("kept", |status| status.pid.is_some_and(|pid| pid != kept)).await?;
    ensure(matches!(again.state, State::Running | State::Spawned), || format!("{again:?}"))?;
    Ok(String::new())
}
