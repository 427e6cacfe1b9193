//! One schema for all readings that have the same names in the same order.

use std::sync::Arc;

use hashbrown::HashSet;
use model::Schema;
use parking_lot::Mutex;

/// Schemas shared by all connections; asked only when a reading differs from the one before.
const SHARED: usize = 10_000;
/// Schemas that one connection remembers.
const OWN: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Schemas(Mutex<HashSet<Arc<Schema>, foldhash::fast::RandomState>>);

impl Schemas {
    fn get(&self, schema: Schema) -> Arc<Schema> {
        let mut held = self.0.lock();
        if let Some(found) = held.get(&schema) {
            return Arc::clone(found);
        }
        if held.len() >= SHARED {
            // Rare, and harmless: equal schemas may then exist twice.
            held.clear();
        }
        let new = Arc::new(schema);
        held.insert(Arc::clone(&new));
        new
    }
}

/// The schemas a connection used last, the newest at the end.
#[derive(Debug, Default)]
pub(crate) struct Cache(Vec<Arc<Schema>>);

impl Cache {
    /// The schema of these names. Allocates only for a shape that is not remembered.
    pub(crate) fn find<'a>(&mut self, names: impl Iterator<Item = &'a str> + Clone, shared: &Schemas) -> Arc<Schema> {
        let same = |schema: &Arc<Schema>| schema.names().iter().map(|n| &**n).eq(names.clone());
        if let Some(at) = self.0.iter().rposition(same) {
            return Arc::clone(&self.0[at]);
        }
        let schema = shared.get(Schema::new(names));
        if self.0.len() == OWN {
            self.0.remove(0);
        }
        self.0.push(Arc::clone(&schema));
        schema
    }
}
