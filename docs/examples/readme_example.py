from compile.backends import exact, lava
from compile.pipeline import compile_graph
from compile.verify import compare
from lavasnn.config import RunConfig
from lavasnn.data import load
from lavasnn.export import to_graph
from lavasnn.learning.trainer import Trainer

train, test = load("digits:train"), load("digits:test").take(100)
trainer = Trainer(RunConfig().with_training(epochs=10, batch=32, learning_rate=2e-3), train)
trainer.run()  # local rules, no backpropagation
program = compile_graph(to_graph(trainer.net, trainer.encoding), train.pixels[:256], train.labels[:256])
mine, theirs = (run(program.graph, test.pixels, test.labels, record=True) for run in (exact.run, lava.run))
print(f"{100 * theirs.accuracy:.0f} % of {theirs.samples} digits on Lava's Loihi 2 simulator")
print(f"{compare(program.graph, mine, theirs).mismatches} mismatches with the exact executor")
