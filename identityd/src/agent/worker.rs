//! Runs the effects, one after the other, in a task of their own: the agent answers meanwhile.

use std::collections::VecDeque;
use std::future::Future;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;

use super::effects::Effects;
use super::handle::{Answer, Outcome, Planned, send};
use super::model::{
    Applied, Candidate, Facts, Installed, PlanReport, Problem, Progress, Resolved, Target, Withheld,
};
use super::state::Event;

/// What the agent can have done. [`Effects`] in the daemon.
pub trait Doing: Send + 'static {
    /// Finishes or undoes what an interrupted upgrade left. May be called again.
    fn recover(&mut self) -> impl Future<Output = Result<(), Problem>> + Send;
    /// What is installed; `None`: live upgrade is disabled.
    fn installed(&mut self) -> impl Future<Output = Result<Option<Installed>, Problem>> + Send;
    /// One poll.
    fn resolve(&mut self) -> impl Future<Output = Result<Resolved, Problem>> + Send;
    /// What installing the candidate would do; touches nothing.
    fn plan(&mut self, candidate: &Candidate) -> impl Future<Output = Result<PlanReport, Problem>> + Send;
    /// Forgets that releases failed whose ids begin with this text; tells which.
    fn forget(&mut self, id: &str) -> impl Future<Output = Result<Vec<String>, Problem>> + Send;
    /// The generation with this number, or the one to go back to if there is no number.
    fn target(&mut self, number: Option<u64>) -> impl Future<Output = Result<Target, Problem>> + Send;
    /// Puts a generation back.
    fn revert(
        &mut self,
        target: &Target,
        progress: UnboundedSender<Progress>,
    ) -> impl Future<Output = Result<Applied, Problem>> + Send;
    /// What is to be shown of the node besides.
    fn facts(&mut self) -> impl Future<Output = Facts> + Send {
        async { Facts::default() }
    }
    /// What the director keeps from this node, by the last poll.
    fn withheld(&self) -> Option<Withheld> {
        None
    }
    /// Installs the candidate.
    fn apply(
        &mut self,
        candidate: &Candidate,
        progress: UnboundedSender<Progress>,
    ) -> impl Future<Output = Result<Applied, Problem>> + Send;
}

impl Doing for Effects {
    async fn recover(&mut self) -> Result<(), Problem> {
        Effects::recover(self).await
    }

    async fn installed(&mut self) -> Result<Option<Installed>, Problem> {
        Effects::installed(self).await
    }

    async fn resolve(&mut self) -> Result<Resolved, Problem> {
        Effects::resolve(self).await
    }

    async fn plan(&mut self, candidate: &Candidate) -> Result<PlanReport, Problem> {
        Effects::plan(self, candidate).await
    }

    async fn forget(&mut self, id: &str) -> Result<Vec<String>, Problem> {
        Effects::forget(self, id)
    }

    async fn target(&mut self, number: Option<u64>) -> Result<Target, Problem> {
        Effects::target(self, number)
    }

    async fn revert(
        &mut self,
        target: &Target,
        progress: UnboundedSender<Progress>,
    ) -> Result<Applied, Problem> {
        Effects::revert(self, target, progress).await
    }

    async fn facts(&mut self) -> Facts {
        Effects::facts(self).await
    }

    fn withheld(&self) -> Option<Withheld> {
        Effects::withheld(self)
    }

    async fn apply(
        &mut self,
        candidate: &Candidate,
        progress: UnboundedSender<Progress>,
    ) -> Result<Applied, Problem> {
        Effects::apply(self, candidate, progress).await
    }
}

/// One thing to do.
#[derive(Debug)]
pub(super) enum Job {
    Recover,
    LookForInstalled,
    Resolve,
    Apply(Candidate),
    /// Find the generation with this number, or the one to go back to.
    Target(Option<u64>),
    Revert(Target),
    /// Outside of the agent's decisions: changes nothing, and answers whoever asked.
    Plan(UnboundedSender<Answer>),
    /// Forget that a release failed; whoever asked waits for what comes of it.
    Forget(String, UnboundedSender<Answer>),
}

impl Job {
    /// Whether it changes the node, and so must never be broken off.
    fn is_transaction(&self) -> bool {
        matches!(self, Self::Recover | Self::Apply(_) | Self::Revert(_))
    }
}

/// What comes back from a job.
#[derive(Debug)]
pub(super) enum Report {
    /// The upgrade moves; the job goes on.
    Progress(Progress),
    /// What the node is like; the job ends now.
    Facts(Box<Facts>),
    /// The job ended with this.
    Done(Event),
    /// A plan was made, or could not be.
    Planned,
    /// What there is to go back to.
    Target(Result<Target, Problem>),
    /// These releases may be tried again, says whoever forgot them; and who asked.
    Forgotten(Result<Vec<String>, Problem>, UnboundedSender<Answer>),
}

/// Jobs in, reports out.
#[derive(Debug)]
pub(super) struct Worker {
    jobs: UnboundedSender<Job>,
    reports: UnboundedReceiver<Report>,
    /// For each job that is not over: whether it is a transaction.
    open: VecDeque<bool>,
    task: JoinHandle<()>,
}

impl Worker {
    pub(super) fn start(doing: impl Doing) -> Self {
        let (jobs, job_receiver) = mpsc::unbounded_channel();
        let (report_sender, reports) = mpsc::unbounded_channel();
        let task = tokio::spawn(work(doing, job_receiver, report_sender));
        Self { jobs, reports, open: VecDeque::new(), task }
    }

    /// Queues a job.
    pub(super) fn begin(&mut self, job: Job) {
        self.open.push_back(job.is_transaction());
        // A worker that is gone shows in `next`.
        let _gone = self.jobs.send(job);
    }

    /// Whether a transaction runs or is queued.
    pub(super) fn in_transaction(&self) -> bool {
        self.open.contains(&true)
    }

    /// The next report; `None` when the task died. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Report> {
        let report = self.reports.recv().await?;
        if !matches!(report, Report::Progress(_) | Report::Facts(_)) {
            self.open.pop_front();
        }
        Some(report)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn work(mut doing: impl Doing, mut jobs: UnboundedReceiver<Job>, reports: UnboundedSender<Report>) {
    while let Some(job) = jobs.recv().await {
        let report = match job {
            Job::Recover => Report::Done(Event::Recovered(doing.recover().await)),
            Job::LookForInstalled => Report::Done(Event::LookedForInstalled(doing.installed().await)),
            Job::Resolve => Report::Done(Event::Resolved(doing.resolve().await)),
            Job::Apply(candidate) => {
                let (sender, progress) = mpsc::unbounded_channel();
                let applied = relay(doing.apply(&candidate, sender), progress, &reports).await;
                Report::Done(Event::Applied(applied))
            }
            Job::Target(number) => Report::Target(doing.target(number).await),
            Job::Revert(target) => {
                let (sender, progress) = mpsc::unbounded_channel();
                let applied = relay(doing.revert(&target, sender), progress, &reports).await;
                Report::Done(Event::Applied(applied))
            }
            Job::Plan(answers) => {
                let answer = match plan(&mut doing).await {
                    Ok(planned) => Answer::Ok(Outcome::Plan(planned)),
                    Err(problem) => Answer::Error(problem),
                };
                send(&answers, answer);
                Report::Planned
            }
            Job::Forget(id, answers) => Report::Forgotten(doing.forget(&id).await, answers),
        };
        if matches!(report, Report::Done(_)) {
            let facts = Box::new(doing.facts().await);
            if reports.send(Report::Facts(facts)).is_err() {
                return;
            }
        }
        if reports.send(report).is_err() {
            return;
        }
    }
}

async fn plan(doing: &mut impl Doing) -> Result<Planned, Problem> {
    match doing.resolve().await? {
        Resolved::Unchanged => {
            Ok(Planned { candidate: None, plan: None, withheld: doing.withheld().map(Box::new) })
        }
        Resolved::Refused { problem, .. } => Err(problem),
        Resolved::Candidate(candidate) => {
            let plan = doing.plan(&candidate).await?;
            Ok(Planned {
                candidate: Some(candidate),
                plan: Some(plan),
                withheld: doing.withheld().map(Box::new),
            })
        }
    }
}

/// Installs, and passes progress on in order: all of it comes before the result.
async fn relay(
    applying: impl Future<Output = Result<Applied, Problem>>,
    mut progress: UnboundedReceiver<Progress>,
    reports: &UnboundedSender<Report>,
) -> Result<Applied, Problem> {
    let mut applying = std::pin::pin!(applying);
    let said = |progress| {
        // The agent went without waiting: the upgrade goes on all the same.
        let _gone = reports.send(Report::Progress(progress));
    };
    let result = loop {
        tokio::select! {
            biased;
            Some(progress) = progress.recv() => said(progress),
            result = &mut applying => break result,
        }
    };
    while let Ok(progress) = progress.try_recv() {
        said(progress);
    }
    result
}
