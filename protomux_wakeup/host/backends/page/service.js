// The wakeup service in the document: topics, peers, and the addresses that it keeps up.

import { Cards, copy, say } from "./lists.js";

const by = (id) => document.getElementById(id);

const topics = new Cards(by("topics"), () => copy("topic-card"), (element, topic) => {
  say(element.querySelector(".hex"), topic.topic);
  for (const name of ["peers", "hints", "watchers", "announced"]) {
    say(element.querySelector(`.${name}`), String(topic[name]));
  }
});

const peers = new Cards(by("peers"), () => copy("peer-card"), (element, peer) => {
  say(element.querySelector(".hex"), peer.public_key || "not encrypted");
  say(element.querySelector(".where"), `at ${peer.address}`);
});

const links = new Cards(by("links"), () => copy("link-card"), (element, link) => {
  say(element.querySelector(".hex"), link.address);
  say(element.querySelector(".where"), link.says);
  element.dataset.state = link.state;
});

const sum = (items, name) => items.reduce((total, item) => total + item[name], 0);

/** Shows what the service says of itself, null where there is none; or why it says nothing. */
export function showService(service, error) {
  const is = service !== null;
  by("service").setAttribute("aria-busy", "false");
  by("service-content").hidden = !is;
  by("service-empty").hidden = is;
  if (!is) {
    say(by("service-empty"), error ? `The wakeup service does not answer: ${error}` : "No wakeup service is here.");
    say(by("service-facts"), "");
    for (const id of ["count-topics", "count-peers", "count-hints"]) say(by(id), "–");
    return;
  }
  say(by("service-facts"), `process ${service.pid}, public key ${service.public_key}`);
  topics.show(service.topics.map((topic) => [topic.topic, topic]));
  // One peer may be there twice, at one address even.
  peers.show(service.peers.map((peer, place) => [`${place} ${peer.public_key} ${peer.address}`, peer]));
  const kept = service.links.map((link) => ({
    address: link.address,
    says: link.is_open ? "connected" : `not connected${link.error ? `: ${link.error}` : ""}`,
    state: link.is_open ? "open" : "broken",
  }));
  const heard = service.listening.map((address) => ({ address, says: "listening", state: "open" }));
  links.show([...kept, ...heard].map((link) => [`${link.says === "listening"} ${link.address}`, link]));
  by("topics-empty").hidden = service.topics.length > 0;
  by("peers-empty").hidden = service.peers.length > 0;
  by("links-empty").hidden = kept.length + heard.length > 0;
  say(by("count-topics"), String(service.topics.length));
  say(by("count-peers"), String(service.peers.length));
  say(by("count-hints"), String(sum(service.topics, "hints")));
}
