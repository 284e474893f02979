#include "engine/commands.h"
#include "engine/control.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct shown {
	const struct config *config;
	json_t *all; /* with --json */
	bool said;   /* a process did not answer */
};

/* {"a":1,"b":{"c":2}} as "a=1 b.c=2". */
static void print_flat(const char *prefix, json_t *object)
{
	const char *key;
	json_t *value;
	json_object_foreach(object, key, value)
	{
		char name[128];
		snprintf(name, sizeof name, "%s%s%s", prefix, prefix[0] ? "." : "", key);
		if (json_is_object(value)) {
			print_flat(name, value);
			continue;
		}
		char *text = json_is_string(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY);
		printf(" %s=%s", name, text ? text : json_string_value(value));
		free(text);
	}
}

static void show(void *context, const char *path, json_t *answer)
{
	struct shown *shown = context;
	if (!answer) {
		say("%s", fail_message());
		shown->said = true;
	} else if (shown->config->json) {
		json_array_append(shown->all, answer);
	} else {
		printf("%s:", path);
		print_flat("", answer);
		putchar('\n');
	}
}

/* The exit status for what control_query returned; the last failure is told unless it was. */
static int outcome(int answered, bool said)
{
	if (answered >= 0)
		return STATUS_OK;
	if (!said)
		say("%s", fail_message());
	return answered == -ENOENT ? STATUS_NONE : answered == -EINVAL ? STATUS_USAGE : STATUS_HOST;
}

int command_status(const struct config *config)
{
	struct shown shown = {.config = config, .all = json_array()};
	int answered = control_query(config->file, "status", show, &shown);
	if (answered >= 0 && config->json) {
		json_dumpf(shown.all, stdout, JSON_INDENT(2));
		putchar('\n');
	}
	json_decref(shown.all);
	return outcome(answered, shown.said);
}

static void stopping(void *context, const char *path, json_t *answer)
{
	bool *said = context;
	if (answer) {
		printf("%s: stopping\n", path);
	} else {
		say("%s", fail_message());
		*said = true;
	}
}

int command_stop(const struct config *config)
{
	bool said = false;
	int answered =
		control_query(config->file ? config->file : config->name, "stop", stopping, &said);
	return outcome(answered, said);
}
