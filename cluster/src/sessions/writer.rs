//! The way of changes to the server: one task sends what was submitted while the last batches were
//! in flight, and sends batches again until the server has answered.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use broker::fleet::{Forwarded, Node, Refusal};
use buffer::TaskId;
use buffer::redis::{AccessError, Command, Durable, Reply};
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::changes::{Batch, Batches, Item, Origin};
use super::config::Config;
use super::fleet::Shared;
use super::scripts::APPLY;
use crate::reply;

/// Bytes of items that are sent together.
const TOGETHER: usize = 1 << 20;
/// Wait before a retry: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Time between two reports of a server that refuses everything.
const REPORTED: Duration = Duration::from_secs(60);

/// Items that wait to be sent.
#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    filled: Notify,
    /// Number of items that the server has applied.
    applied: watch::Sender<u64>,
    /// As [`Config::max_waiting_bytes`] and [`Config::max_forward_bytes`].
    most: (usize, usize),
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    /// Bytes that wait or are in flight, and those of forwarded messages.
    waiting: (usize, usize),
    /// Tasks that wait until fewer bytes do, and until fewer bytes of forwarded messages do.
    tasks: (Tasks, Tasks),
    /// Nodes that an item of `items` tells that they have missed messages, of a tenant.
    missed: BTreeSet<(Node, Arc<str>)>,
    /// Items that were ever added.
    added: u64,
}

impl State {
    fn add(&mut self, item: Item) {
        self.items.push_back(item);
        self.added += 1;
    }

    /// Notes that a node does not get a message of a tenant. One item for it that waits is enough.
    fn miss(&mut self, node: &Node, tenant: &Arc<str>) {
        if self.missed.insert((Arc::clone(node), Arc::clone(tenant))) {
            let item = Item::Missed(Arc::clone(node), Arc::clone(tenant));
            self.waiting.0 += item.size();
            self.add(item);
        }
    }
}

/// Tasks that wait, each once: thousands of connections may poll again and again.
#[derive(Debug, Default)]
struct Tasks(HashMap<TaskId, Waker>);

impl Tasks {
    fn wait(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.0.insert(TaskId::of(cx.waker()), cx.waker().clone());
        Poll::Pending
    }

    /// Takes the wakers, to be woken without a lock.
    fn take(&mut self) -> impl Iterator<Item = Waker> + use<> {
        std::mem::take(&mut self.0).into_values()
    }

    fn take_if(&mut self, has_room: bool) -> impl Iterator<Item = Waker> + use<> {
        has_room.then(|| self.take()).into_iter().flatten()
    }
}

impl Outbox {
    pub(crate) fn new(config: &Config) -> Self {
        let most = (config.max_waiting_bytes, config.max_forward_bytes);
        Self { state: Mutex::default(), filled: Notify::new(), applied: watch::channel(0).0, most }
    }

    /// True while publishers need not be slowed down for the messages to other nodes that wait.
    fn has_forward_room(&self, state: &State) -> bool {
        state.waiting.1 < self.most.1 / 2
    }

    pub(crate) fn push(&self, item: Item) {
        let mut state = self.state.lock();
        state.waiting.0 += item.size();
        state.add(item);
        self.filled.notify_one();
    }

    /// Waits until the server has applied what was added before.
    pub(crate) async fn flushed(&self) {
        let added = self.state.lock().added;
        // It has a sender: this outbox.
        self.applied.subscribe().wait_for(|applied| *applied >= added).await.ok();
    }

    /// Adds a message for other nodes unless too many bytes of them wait. Nodes that miss it are
    /// told, if it is owed to their subscribers.
    pub(crate) fn forward(&self, nodes: &[Node], message: Forwarded) -> bool {
        let owed = message.is_owed().then(|| Arc::clone(&message.tenant));
        let item = Item::Forward(nodes.to_vec(), message);
        let (size, mut state) = (item.size(), self.state.lock());
        let has_room = state.waiting.1 + size <= self.most.1;
        if has_room {
            state.waiting.1 += size;
            state.add(item);
        } else if let Some(tenant) = owed {
            nodes.iter().for_each(|node| state.miss(node, &tenant));
        }
        self.filled.notify_one();
        has_room
    }

    /// Ready while few bytes of messages for other nodes wait.
    pub(crate) fn poll_forward(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if self.has_forward_room(&state) { Poll::Ready(()) } else { state.tasks.1.wait(cx) }
    }

    /// Wakes all that wait for room. Those that have ended meanwhile are forgotten.
    fn wake(&self) {
        let (for_changes, forwarding) = {
            let State { tasks, .. } = &mut *self.state.lock();
            (tasks.0.take(), tasks.1.take())
        };
        for_changes.chain(forwarding).for_each(Waker::wake);
    }

    /// Ready while few bytes wait.
    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.waiting.0 < self.most.0 { Poll::Ready(()) } else { state.tasks.0.wait(cx) }
    }

    /// Takes items into batches, and returns how many.
    fn take(&self, batches: &mut Batches) -> u64 {
        let mut state = self.state.lock();
        let mut bytes = 0;
        let mut taken = Vec::new();
        while bytes < TOGETHER
            && let Some(item) = state.items.pop_front()
        {
            bytes += item.size();
            if let Item::Missed(node, tenant) = &item {
                state.missed.remove(&(Arc::clone(node), Arc::clone(tenant)));
            }
            taken.push(item);
        }
        drop(state);
        let count = taken.len() as u64;
        for item in taken {
            batches.add(item);
        }
        batches.cut();
        count
    }

    /// Forgets bytes that are no longer on their way, and wakes those that there is room for.
    fn sent(&self, (changes, forwarded): (usize, usize)) {
        let mut state = self.state.lock();
        state.waiting.0 -= changes;
        state.waiting.1 -= forwarded;
        let has_room = (state.waiting.0 < self.most.0, self.has_forward_room(&state));
        let (for_changes, forwarding) = (state.tasks.0.take_if(has_room.0), state.tasks.1.take_if(has_room.1));
        drop(state);
        for_changes.chain(forwarding).for_each(Waker::wake);
    }
}

/// Sends for ever.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut durable = shared.access.durable();
    let mut batches = Batches::default();
    loop {
        let count = shared.outbox.take(&mut batches);
        if batches.ready.is_empty() {
            shared.outbox.filled.notified().await;
            continue;
        }
        let answers = send(&shared, &mut durable, &batches.ready).await;
        for (batch, answer) in batches.ready.drain(..).zip(answers) {
            refuse(&shared, &batch, answer);
            batch.tickets.iter().for_each(|ticket| shared.tickets.done(*ticket));
            shared.outbox.sent(batch.waiting);
        }
        shared.outbox.applied.send_modify(|applied| *applied += count);
    }
}

/// The server's answer to a batch.
struct Answer {
    /// Places of changes that were refused.
    refused: Vec<(usize, Refusal)>,
    /// The first failure, if there was one.
    failure: String,
}

/// Sends batches until the server has answered.
async fn send(shared: &Shared, durable: &mut Durable, batches: &[Batch]) -> Vec<Answer> {
    let begun = Instant::now();
    let mut reported: Option<Instant> = None;
    let mut pause = PAUSE.0;
    let answers = loop {
        match send_once(shared, durable, batches).await {
            Ok(answers) => break answers,
            Err(error) => {
                if error.is_fault && reported.is_none_or(|at| at.elapsed() >= REPORTED) {
                    reported = Some(Instant::now());
                    tracing::error!(
                        "redis refuses the changes of sessions, and nothing for sessions that last is acknowledged \
                         until it takes them: {error}: look for another program that writes under redis.prefix, and at \
                         the permissions of redis.username"
                    );
                }
                tracing::debug!("send changes of sessions: {error}");
                shared.metrics.retries.inc();
                shared.health.set_writer(Some(error.reason));
                // Those that wait for messages to other nodes wait no longer.
                shared.outbox.wake();
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    };
    shared.health.set_writer(None);
    shared.metrics.submit.observe(begun.elapsed().as_secs_f64());
    answers
}

async fn send_once(shared: &Shared, durable: &mut Durable, batches: &[Batch]) -> Result<Vec<Answer>, AccessError> {
    let prefix = shared.access.prefix();
    let first = batches.first().map_or(0, |batch| batch.number);
    let call = |batch: &Batch| batch.call(prefix, first, &shared.identity, &shared.config);
    let calls: Vec<Command> = batches.iter().map(call).collect();
    let nudged = format!("{prefix}g");
    let replies = durable.send(&[&APPLY], &nudged, &calls).await?;
    replies.into_iter().map(|reply| read(shared, reply)).collect()
}

/// Reads the answer to a batch, and counts what it has done.
fn read(shared: &Shared, reply: Reply) -> Result<Answer, AccessError> {
    let mut parts = reply::list(reply)?.into_iter();
    reply::next(&mut parts)?;
    let refused = reply::text(reply::next(&mut parts)?)?;
    let failure = reply::text(reply::next(&mut parts)?)?;
    let metrics = &shared.metrics;
    for counter in [&metrics.appended, &metrics.dropped, &metrics.lost, &metrics.undelivered] {
        counter.inc_by(reply::number(reply::next(&mut parts)?)?);
    }
    if reply::number(reply::next(&mut parts)?)? > 0 {
        shared.leftovers.left.notify_one();
    }
    let place = |item: &str| {
        let failed = item.strip_suffix('!');
        let refusal = if failed.is_some() { Refusal::Fault } else { Refusal::NotOwned };
        let place = failed.unwrap_or(item).parse().map_err(|_| reply::strange("a refusal"))?;
        Ok((place, refusal))
    };
    let refused = refused.split(',').filter(|item| !item.is_empty()).map(place).collect::<Result<_, _>>()?;
    Ok(Answer { refused, failure })
}

/// Lets submitters know of changes that were refused.
fn refuse(shared: &Shared, batch: &Batch, Answer { refused, failure }: Answer) {
    let mut failed = 0;
    for (place, refusal) in refused {
        let Some(Origin { submitter, owned }) = batch.origins.get(place) else { continue };
        match refusal {
            Refusal::Fault => {
                failed += 1;
                shared.metrics.failed.inc();
            }
            Refusal::NotOwned => {
                shared.metrics.refused.inc();
                owned.iter().for_each(|owned| shared.doubt_one(owned));
            }
        }
        if let Some(submitter) = submitter {
            submitter.refused(refusal);
        }
    }
    if failed > 0 || !failure.is_empty() {
        let failure = if failure.is_empty() { "the answer was lost" } else { &failure };
        tracing::error!(
            failed,
            "redis has failed to make changes of sessions, which are not acknowledged: {failure}: look for another \
             program that writes under redis.prefix"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use broker::fleet::SharedMessage;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn forwarded(qos: u8) -> Forwarded {
        let (topic, payload, properties) = ("a".into(), [0; 1000].into(), [].into());
        let message = Arc::new(SharedMessage { topic, payload, properties, qos, retain: false, published: 0 });
        Forwarded { tenant: "t".into(), from: "c".into(), message, share: None, is_routed: true }
    }

    fn outbox(max_waiting_bytes: usize, max_forward_bytes: usize) -> Outbox {
        Outbox::new(&Config { max_waiting_bytes, max_forward_bytes, ..Config::default() })
    }

    #[test]
    fn publishers_wait_while_messages_for_other_nodes_do_and_not_for_a_server_that_is_away() {
        let (outbox, count) = (outbox(1, 3000), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&count));
        let cx = Context::from_waker(&waker);
        let is_ready = || outbox.poll_forward(&cx).is_ready();
        let woken = || count.0.swap(0, Ordering::Relaxed);
        assert!(is_ready() && outbox.forward(&["b".into()], forwarded(1)));
        assert!(is_ready() && outbox.forward(&["b".into()], forwarded(1)));
        assert!(!is_ready() && !is_ready());
        outbox.wake();
        assert_eq!((woken(), is_ready()), (1, false), "a server that is away");
        let mut batches = Batches::default();
        assert_eq!(outbox.take(&mut batches), 2);
        assert_eq!((woken(), is_ready()), (0, false), "on their way");
        batches.ready.drain(..).for_each(|batch| outbox.sent(batch.waiting));
        assert_eq!((woken(), is_ready()), (1, true));
    }

    #[test]
    fn each_task_is_woken_once_and_when_there_is_room_for_it() {
        let outbox = outbox(500, 1200);
        let counts: [Arc<Count>; 2] = Default::default();
        let wakers = counts.each_ref().map(|count| Waker::from(Arc::clone(count)));
        let [changing, forwarding] = wakers.each_ref().map(Context::from_waker);
        let woken = || counts.each_ref().map(|count| count.0.swap(0, Ordering::Relaxed));
        (0..5).for_each(|n| outbox.push(Item::Unclaim("c".into(), n.to_string())));
        assert!(outbox.forward(&["b".into()], forwarded(1)));
        for _ in 0..3 {
            assert!(outbox.poll_room(&changing).is_pending() && outbox.poll_forward(&forwarding).is_pending());
        }
        let waiting = outbox.state.lock().waiting;
        outbox.sent((0, waiting.1));
        assert_eq!(woken(), [0, 1]);
        assert!(outbox.poll_room(&changing).is_pending() && outbox.poll_forward(&forwarding).is_ready());
        outbox.sent((waiting.0, 0));
        assert_eq!(woken(), [1, 0]);
        assert!(outbox.poll_room(&changing).is_ready());
    }

    #[test]
    fn a_node_is_told_once_of_messages_that_it_misses_until_that_is_on_its_way() {
        let outbox = outbox(1, 100);
        let [b, c] = ["b", "c"].map(Node::from);
        let miss = |nodes: &[&Node], qos: u8| {
            let nodes: Vec<Node> = nodes.iter().map(|node| Arc::clone(node)).collect();
            assert!(!outbox.forward(&nodes, forwarded(qos)));
        };
        let told = || {
            let mut batches = Batches::default();
            let told = outbox.take(&mut batches);
            batches.ready.drain(..).for_each(|batch| outbox.sent(batch.waiting));
            told
        };
        miss(&[&b], 0);
        assert_eq!(told(), 0, "of QoS 0");
        miss(&[&b], 1);
        miss(&[&b, &c], 2);
        assert_eq!(told(), 2);
        miss(&[&c], 1);
        assert_eq!((told(), told()), (1, 0));
        assert_eq!(outbox.state.lock().waiting, (0, 0));
    }
}
