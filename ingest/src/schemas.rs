//! Schemas, shared by all readings that have the same names in the same order.

use std::sync::Arc;

use hashbrown::HashSet;
use model::Schema;
use parking_lot::Mutex;

/// Maximum number of schemas shared by all connections.
const SHARED: usize = 10_000;
/// Maximum number of schemas that one connection remembers.
const OWN: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Schemas(Mutex<HashSet<Arc<Schema>, foldhash::fast::RandomState>>);

impl Schemas {
    fn share(&self, schema: Schema) -> Arc<Schema> {
        let mut held = self.0.lock();
        if let Some(found) = held.get(&schema) {
            return Arc::clone(found);
        }
        if held.len() >= SHARED {
            // Rare and harmless: equal schemas may then exist twice.
            held.clear();
        }
        let new = Arc::new(schema);
        held.insert(Arc::clone(&new));
        new
    }
}

/// The schemas that a connection used last, the newest at the end. The names of each are distinct.
#[derive(Debug, Default)]
pub(crate) struct Cache(Vec<Arc<Schema>>);

impl Cache {
    /// Returns the remembered schema of these names.
    pub(crate) fn get<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Option<Arc<Schema>> {
        let same = |schema: &&Arc<Schema>| schema.names().iter().map(|n| &**n).eq(names.clone());
        self.0.iter().rev().find(same).map(Arc::clone)
    }

    /// Returns the schema of these names, which are distinct, and remembers it.
    pub(crate) fn remember<'a>(
        &mut self,
        names: impl Iterator<Item = &'a str> + Clone,
        shared: &Schemas,
    ) -> Arc<Schema> {
        if let Some(schema) = self.get(names.clone()) {
            return schema;
        }
        let schema = shared.share(Schema::new(names));
        if self.0.len() == OWN {
            self.0.remove(0);
        }
        self.0.push(Arc::clone(&schema));
        schema
    }
}
