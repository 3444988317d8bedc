//! Checks what checked tables hand out: records, ids and names.

use cloister_caps::tables::{
    MAX_PORT_RULES, MAX_SERVICES, Object, PerService, PortPeer, PortRuleSet, TableError, Tables,
};

use crate::Draft;

#[test]
fn tables_are_read_back() {
    let draft = Draft::good();
    let bytes = draft.bytes();
    let tables = Tables::parse(&bytes).unwrap();
    assert_eq!(tables.services().raw().iter().collect::<Vec<_>>(), draft.services);
    assert_eq!(tables.segments().raw().iter().collect::<Vec<_>>(), draft.segments);
    assert_eq!(tables.regions().raw().iter().collect::<Vec<_>>(), draft.regions);
    assert_eq!(tables.mappings().raw().iter().collect::<Vec<_>>(), draft.mappings);
    assert_eq!(tables.capabilities().raw().iter().collect::<Vec<_>>(), draft.capabilities);
    assert_eq!(tables.queues().raw().iter().collect::<Vec<_>>(), draft.queues);
    assert_eq!(tables.grants().raw().iter().collect::<Vec<_>>(), draft.grants);
    assert_eq!(tables.ports().raw().iter().collect::<Vec<_>>(), draft.ports);
    assert_eq!(tables.domains().raw().iter().collect::<Vec<_>>(), draft.domains);
    assert_eq!((tables.services().len(), tables.services().is_empty()), (2, false));
    let services = tables.services().raw();
    assert_eq!((services.get(1), services.get(2)), (Some(draft.services[1]), None));
    assert_eq!(services.get(usize::MAX), None);
    let image = tables.image();
    assert_eq!((image.isolation, image.refused), (draft.image[0].isolation, draft.image[0].refused));
    assert_eq!(tables.policy_text(), "a = 1");
    assert_eq!(tables.policy_hash(), std::array::from_fn(|index| index as u8 + 1));
    let names: Vec<_> = tables.services().ids().map(|service| tables.service_name(service)).collect();
    assert_eq!(names, ["alpha", "beta"]);
    assert!(
        Tables::parse(&Draft { ports: vec![], ..draft.clone() }.bytes()).is_err(),
        "a capability to the port is left"
    );
    let without = Draft { segments: vec![], ..draft };
    assert!(Tables::parse(&without.bytes()).unwrap().segments().is_empty());
}

#[test]
fn each_id_names_the_record_that_it_came_with() {
    let bytes = Draft::good().bytes();
    let tables = Tables::parse(&bytes).unwrap();
    assert!(tables.services().with_ids().all(|(id, service)| tables.service(id) == service));
    assert!(tables.regions().with_ids().all(|(id, region)| tables.region(id) == region));
    assert!(tables.mappings().with_ids().all(|(id, mapping)| tables.mapping(id) == mapping));
    assert!(tables.queues().with_ids().all(|(id, queue)| tables.queue(id) == queue));
    assert!(tables.grants().with_ids().all(|(id, rule)| tables.grant(id) == rule));
    assert!(tables.ports().with_ids().all(|(id, rule)| tables.port(id) == rule));
    assert!(tables.domains().with_ids().all(|(id, set)| tables.domain_set(id) == set));
    let [first, second] = [0, 1].map(|index| tables.services().id(index).unwrap());
    assert_eq!(tables.services().id(2), None);
    assert_eq!((first.index(), second.index(), second.to_string().as_str()), (0, 1, "service 1"));
    let mapping = tables.mappings().get(1).unwrap();
    assert_eq!((mapping.service, Some(mapping.region)), (second, tables.regions().id(0)));
    let queue = tables.queues().get(0).unwrap();
    assert_eq!((queue.sender, queue.receiver), (first, second));
    let objects: Vec<_> = tables.capabilities().iter().map(|capability| capability.object).collect();
    let id = |index| tables.mappings().id(index).unwrap();
    let (queue, port) = (tables.queues().id(0).unwrap(), tables.ports().id(0).unwrap());
    let grant = tables.grants().id(0).unwrap();
    let expected = [Object::Sender(queue), Object::Receiver(queue), Object::Port(port), Object::Grant(grant)];
    assert_eq!(objects[..4], expected);
    let set = |index| tables.domains().id(index).unwrap();
    assert_eq!(objects[4..], [Object::Region(id(1)), Object::Console, Object::Domain(set(1))]);
    assert_eq!(tables.port(port).peer, PortPeer::Domains(set(0)));
    assert_eq!(tables.grant(grant).peers, set(0));
    assert_eq!([0, 1].map(|index| tables.domain_set(set(index)).pinned), [false, true]);
    assert!(tables.capabilities().iter().zip(Draft::good().capabilities).all(|(one, raw)| one.kind() == raw.kind));
}

#[test]
fn a_collection_has_a_value_for_each_id() {
    let mut draft = Draft::good();
    draft.services = vec![draft.services[0]; MAX_SERVICES];
    draft.ports = vec![draft.ports[0]; MAX_PORT_RULES];
    let bytes = draft.bytes();
    let tables = Tables::parse(&bytes).unwrap();
    let mut numbers = PerService::new([0; _]);
    for service in tables.services().ids() {
        numbers[service] += service.index() + 1;
    }
    assert_eq!(numbers, PerService::new(std::array::from_fn(|index| index + 1)));
    let mut rules = PortRuleSet::EMPTY;
    tables.ports().ids().for_each(|rule| rules.insert(rule));
    assert!(rules.eq(tables.ports().ids()), "all of them, in order");
    tables.ports().ids().skip(1).for_each(|rule| rules.remove(rule));
    assert_eq!((rules.next(), rules.next()), (tables.ports().id(0), None));
    for rule in tables.ports().ids() {
        let mut one = PortRuleSet::EMPTY;
        one.insert(rule);
        assert_eq!((one.next(), one.next()), (Some(rule), None));
    }
}

#[test]
fn errors_name_their_cause() {
    let texts = [
        TableError::Truncated,
        TableError::NotTables,
        TableError::Version(9),
        TableError::Section("ports"),
        TableError::Record("queue", 3),
    ]
    .map(|error| error.to_string());
    let marks = ["cut short", "not capability tables", "version 9", "section of ports", "queue record 3"];
    assert!(texts.iter().zip(marks).all(|(text, mark)| text.contains(mark)), "{texts:?}");
}
