# Short names for the scripts, which do the work.
.PHONY: train test thorough slow lowest results docs

train:
	./scripts/train.sh $(ARGS)

test:
	./scripts/test.sh $(ARGS)

thorough:
	./scripts/test.sh -m thorough $(ARGS)

slow:
	./scripts/test.sh -m slow $(ARGS)

lowest:
	./scripts/lowest.sh $(ARGS)

results:
	./scripts/reproduce.sh $(ARGS)

docs:
	./scripts/docs.sh $(ARGS)
