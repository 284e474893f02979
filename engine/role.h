/*
 * The roles of a process in a pair, and the only function that changes them.
 *
 *   solo ──a standby answers──▶ cloning ──commit sent──▶ primary
 *     ▲                            │                        │
 *     ├─────────no commit──────────┘                        │
 *     ├─────────A1 won──────────────────────────────────────┘
 *     └─────────A1 won──────────────────────────────────────────────────────────────┐
 *                                                                                   │
 *   standby ──a primary asks──▶ receiving ──whole commit──▶ backup ──suspicion──▶ live
 *     ▲                            │                        │
 *     ├─────────no commit──────────┘                        │
 *     └─────────it has diverged, and forgets its machine────┘
 *
 *   every role ──▶ halted
 *
 *   solo       holds the generation; outputs leave at once (SESSION_ALONE)        A1
 *   cloning    as solo, until its last message: from then on outputs are held     A1, O2
 *   primary    holds the generation; outputs wait for the session's acks          A1, O1, O2, L3
 *   standby    has no machine
 *   receiving  fills a machine that has never run
 *   backup     follows the log, keeps its outputs, acknowledges                   D5, D6, O3, L1, L2
 *   live       fenced; replays the rest, then asks the arbiter; sends nothing yet    L4, A1
 *   halted     runs nothing and sends nothing                                     A3
 */
#pragma once

enum role {
	ROLE_SOLO,
	ROLE_CLONING,
	ROLE_PRIMARY,
	ROLE_STANDBY,
	ROLE_RECEIVING,
	ROLE_BACKUP,
	ROLE_LIVE,
	ROLE_HALTED,
	ROLES
};

const char *role_name(enum role role);

/* Control thread. CHECKs that the change is in the diagram. */
void role_change(enum role *role, enum role to);
