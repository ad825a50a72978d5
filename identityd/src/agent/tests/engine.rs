//! A scripted engine.

use super::*;

/// What the engine says, in order; an empty queue says that nothing changed.
#[derive(Default)]
pub(super) struct Script {
    pub(super) recovered: VecDeque<Result<(), Problem>>,
    /// Whether there is no flist.name.
    pub(super) disabled: Arc<AtomicBool>,
    pub(super) resolved: VecDeque<Result<Resolved, Problem>>,
    pub(super) applied: VecDeque<Applying>,
    /// The version that there is to go back to.
    pub(super) target: Option<&'static str>,
    /// Why that is not known, at first.
    pub(super) untold: VecDeque<Problem>,
    /// What is installed, if not 1.
    pub(super) installed: Option<&'static str>,
    /// What the director keeps from the node.
    pub(super) withheld: Option<Withheld>,
    /// What the next poll waits for.
    pub(super) polling: Option<oneshot::Receiver<()>>,
}

/// What an upgrade says on its way, what it waits for, and how it ends.
pub(super) struct Applying(
    pub(super) Vec<Progress>,
    pub(super) Option<oneshot::Receiver<()>>,
    pub(super) Result<Applied, Problem>,
);

/// An engine that does what its script says and notes what it was asked to do.
pub(super) struct Engine {
    pub(super) script: Script,
    pub(super) brake: Brake,
    pub(super) calls: Arc<Mutex<Vec<&'static str>>>,
}

impl Engine {
    fn called(&self, what: &'static str) {
        self.calls.lock().unwrap().push(what);
    }

    /// The next installation of the script.
    async fn play(&mut self, progress: UnboundedSender<Progress>) -> Result<Applied, Problem> {
        let Some(Applying(said, wait, result)) = self.script.applied.pop_front() else {
            panic!("the script knows no upgrade");
        };
        said.into_iter().for_each(|said| progress.send(said).unwrap());
        if let Some(wait) = wait {
            wait.await.unwrap();
        }
        match self.brake.check() {
            Ok(()) => result,
            Err(stopped) => Ok(Applied::Stopped { gate: stopped.gate, why: stopped.why }),
        }
    }
}

impl Doing for Engine {
    async fn recover(&mut self) -> Result<(), Problem> {
        self.called("recover");
        self.script.recovered.pop_front().unwrap_or(Ok(()))
    }

    async fn installed(&mut self) -> Result<Option<Installed>, Problem> {
        self.called("installed");
        let disabled = self.script.disabled.load(Ordering::Relaxed);
        Ok((!disabled).then(|| candidate(self.script.installed.unwrap_or("1")).installed_as(1)))
    }

    async fn resolve(&mut self) -> Result<Resolved, Problem> {
        self.called("resolve");
        if let Some(wait) = self.script.polling.take() {
            wait.await.unwrap();
        }
        self.script.resolved.pop_front().unwrap_or(Ok(Resolved::Unchanged))
    }

    async fn facts(&mut self) -> Facts {
        Facts { withheld: self.script.withheld.clone(), ..Facts::default() }
    }

    fn withheld(&self) -> Option<Withheld> {
        self.script.withheld.clone()
    }

    async fn plan(&mut self, candidate: &Candidate) -> Result<PlanReport, Problem> {
        self.called("plan");
        Ok(PlanReport { text: format!("to {}", candidate.version), json: serde_json::json!([]) })
    }

    async fn forget(&mut self, id: &str) -> Result<Vec<String>, Problem> {
        self.called("forget");
        Ok(vec![id.to_owned()])
    }

    async fn target(&mut self, number: Option<u64>) -> Result<Target, Problem> {
        self.called("target");
        if let Some(problem) = self.script.untold.pop_front() {
            return Err(problem);
        }
        let kept = self.script.target.filter(|_| number.is_none_or(|number| number == 1));
        let target = kept.map(|kept| Target { generation: 1, release: candidate(kept) });
        target.ok_or_else(|| Problem::new(ProblemKind::Local, "these are kept: 1"))
    }

    async fn revert(&mut self, _: &Target, progress: UnboundedSender<Progress>) -> Result<Applied, Problem> {
        self.called("revert");
        self.play(progress).await
    }

    async fn apply(
        &mut self,
        _: &Candidate,
        progress: UnboundedSender<Progress>,
    ) -> Result<Applied, Problem> {
        self.called("apply");
        self.play(progress).await
    }
}
