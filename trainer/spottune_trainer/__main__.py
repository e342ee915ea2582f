from spottune_trainer.main import run

run()
